//! Requests as they come over `/dev/vmbus/hv_kvp`: strings in UTF-8. Protocol section 7.
