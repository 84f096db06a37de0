//! Checks requests against the configured access.

use super::config::Access;
use super::error::Error;
use super::request::Request;

impl Access {
    /// Refuses a request that the configuration does not allow.
    pub(super) fn check(&self, request: &Request) -> Result<(), Error> {
        match request {
            Request::Set { pool, .. } | Request::Delete { pool, .. }
                if !self.writable_pools.contains(pool) =>
            {
                Err(Error::NotWritable(*pool))
            }
            Request::GetIpInfo { .. } if !self.ip_info => Err(Error::IpInfoDisabled),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kvp::request::{Family, IpInfo, PoolId};

    fn requests(pool: PoolId) -> [Request; 4] {
        let key = || "key".to_owned();
        [
            Request::Set {
                pool,
                key: key(),
                value: String::new(),
            },
            Request::Delete { pool, key: key() },
            Request::Get { pool, key: key() },
            Request::Enumerate { pool, index: 0 },
        ]
    }

    fn get_ip_info() -> Request {
        Request::GetIpInfo {
            adapter: String::new(),
            family: Family::BOTH,
        }
    }

    #[test]
    fn by_default_nothing_is_refused() {
        let access = Access::default();
        for request in PoolId::ALL.into_iter().flat_map(requests) {
            access.check(&request).unwrap();
        }
        access.check(&get_ip_info()).unwrap();
        access
            .check(&Request::SetIpInfo(IpInfo::default()))
            .unwrap();
    }

    #[test]
    fn other_pools_are_read_only() {
        let access = Access {
            writable_pools: vec![PoolId::External, PoolId::AutoExternal],
            ..Access::default()
        };
        for pool in PoolId::ALL {
            let refused = requests(pool).map(|request| access.check(&request).is_err());
            let writes = !access.writable_pools.contains(&pool);
            assert_eq!(refused, [writes, writes, false, false], "pool {pool}");
        }
        access.check(&get_ip_info()).unwrap();
    }

    #[test]
    fn reading_the_ip_configuration_is_refused() {
        let access = Access {
            ip_info: false,
            ..Access::default()
        };
        assert!(matches!(
            access.check(&get_ip_info()),
            Err(Error::IpInfoDisabled)
        ));
        for request in PoolId::ALL.into_iter().flat_map(requests) {
            access.check(&request).unwrap();
        }
    }
}
