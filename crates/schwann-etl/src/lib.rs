//! AIStore's ETL web-server contract over any [`Handler`](schwann::Handler).
