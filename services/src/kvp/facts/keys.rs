//! The keys of the guest's facts. Protocol section 7.

/// The fact that may be looked up for a while.
pub const FULL_NAME: &str = "FullyQualifiedDomainName";

/// The keys of the facts by index.
pub const KEYS: [&str; 10] = [
    FULL_NAME,
    "IntegrationServicesVersion",
    "NetworkAddressIPv4",
    "NetworkAddressIPv6",
    "OSBuildNumber",
    "OSName",
    "OSMajorVersion",
    "OSMinorVersion",
    "OSVersion",
    "ProcessorArchitecture",
];
