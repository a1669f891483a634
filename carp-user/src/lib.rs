//! carp-user
