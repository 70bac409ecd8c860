//! What happens to an object when something breaks, for every place where it can.
//!
//! A cell is a fault, a source, a way of delivery, a point in the object, and a kind of transform. In each, nothing cut is
//! ever complete at a destination or a caller, at most one delivery is acknowledged, whoever asked learns of the failure by
//! the means of the way it asked, the transform ends, and the server goes on.

mod cell;
mod matrix;
mod transform;
