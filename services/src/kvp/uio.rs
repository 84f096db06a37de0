//! Requests as they come over a ring: strings in UTF-16. Protocol section 7.
