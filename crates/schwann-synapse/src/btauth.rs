//! `btauth/1`: signed headers on any HTTP request (SDK 11).
