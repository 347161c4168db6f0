//! Postwarm.
