//! Descriptors of the file systems that are to be frozen.
