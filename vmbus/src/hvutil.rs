//! A channel over a `/dev/vmbus/hv_*` character device. Protocol section 6.
