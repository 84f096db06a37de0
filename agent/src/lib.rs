//! The agent as a library: supervisor, command line and configuration.
