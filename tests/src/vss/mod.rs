//! The host's side of a backup, over rings and over the char device. Protocol
//! section 8.
//!
//! Over the char device the host stands for the kernel as well: `hv_utils`
//! answers GET_DM_INFO without asking the program, and passes none of the
//! program's flags to the host.

mod message;

use anyhow::{Context, Result, ensure};
use hyperv_vmbus::Guid;
use hyperv_vmbus::ic::{Status, Version};

use crate::host::{Protocol, Service, ServiceHost};
use crate::ic::{BACKUP, Reply};
pub use message::{BODY_LEN, LONG_FREEZE, LONG_RECOVER, Operation};

/// Flags of a guest that needs no recovery after it was restored: its file
/// systems were frozen.
const NO_AUTO_RECOVERY: u32 = 5;

/// What comes of them with `hv_utils` in between: it would set them where the
/// program's reply began with the operation, and a reply begins with a status.
const NONE: u32 = 0;

/// How a program registers: the first byte of its message, and the kernel's
/// answer.
const REGISTER: u8 = 129;

/// The protocol of backups.
#[derive(Debug, Clone, Copy)]
pub struct Vss;

impl Protocol for Vss {
    const SERVICE: Service = Service {
        name: "vss",
        class: Guid::from_u128(0x35fa2e29_ea23_4236_96ae_3a6ebacba440),
        instance: Guid::from_u128(0x2450ee40_33bf_4fbd_892e_9fb06e9214cf),
        node: "vmbus/hv_vss",
    };
    const KIND: u16 = BACKUP;
    const VERSIONS: &'static [Version] = &[Version::new(5, 0), Version::new(6, 0)];
    const VERSION: Version = Version::new(5, 0);
    const REPLY_LEN: usize = BODY_LEN;

    type Operation = Operation;

    /// A question only.
    const HARMLESS: Operation = Operation::HotBackup;

    fn encode_utf16(operation: &Operation, _: Version) -> Vec<u8> {
        operation.encode(BODY_LEN)
    }

    fn encode_utf8(operation: &Operation) -> Vec<u8> {
        operation.encode(BODY_LEN)
    }

    fn register(registration: &[u8]) -> Result<Vec<u8>> {
        ensure!(
            registration.len() == BODY_LEN && registration.first() == Some(&REGISTER),
            "expected a registration of {BODY_LEN} bytes that begins with {REGISTER}; the guest wrote {registration:?}"
        );
        Ok(u32::from(REGISTER).to_le_bytes().to_vec())
    }
}

/// A host that backs up a guest, from when the guest has opened its device.
pub type VssHost = ServiceHost<Vss>;

/// The flags that the guest answered, or the status with which it declined.
pub type Flags = std::result::Result<u32, Status>;

/// Every call fails where the guest does not answer as it should; that it
/// declines is an answer.
#[expect(clippy::missing_errors_doc)]
impl ServiceHost<Vss> {
    /// Asks whether the guest can be backed up while it runs.
    pub fn hot_backup(&mut self) -> Result<Flags> {
        let reply = self.call(&Operation::HotBackup)?;
        match self.speaks_utf16() {
            true => flags(&reply),
            false => Ok(match reply.status {
                Status::OK => Ok(NONE),
                declined => Err(declined),
            }),
        }
    }

    /// The flags of a HOT_BACKUP that come from a guest which can be backed up.
    pub fn expected_flags(&self) -> u32 {
        match self.has_rings() {
            true => NO_AUTO_RECOVERY,
            false => NONE,
        }
    }

    /// Asks about file systems that span several disks.
    pub fn get_dm_info(&mut self) -> Result<Flags> {
        match self.speaks_utf16() {
            true => flags(&self.call(&Operation::GetDmInfo)?),
            false => Ok(Ok(NONE)),
        }
    }

    /// Lets the file systems stand still.
    pub fn freeze(&mut self) -> Result<Status> {
        self.request(&Operation::Freeze)
    }

    /// Lets them go on.
    pub fn thaw(&mut self) -> Result<Status> {
        self.request(&Operation::Thaw)
    }
}

/// The flags of a reply that came over rings.
pub(crate) fn flags(reply: &Reply) -> Result<Flags> {
    if reply.status != Status::OK {
        return Ok(Err(reply.status));
    }
    let flags = reply.body.get(message::FLAGS_AT..BODY_LEN);
    let flags = flags.context("the reply is cut short before its flags")?;
    Ok(Ok(u32::from_le_bytes(flags.try_into()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registration_is_answered_with_its_own_number() {
        let registration = Operation::Other(129).encode(BODY_LEN);
        assert_eq!(Vss::register(&registration).unwrap(), [129, 0, 0, 0]);
        for wrong in [
            &registration[..11],
            &Operation::Other(128).encode(BODY_LEN),
            &[],
        ] {
            assert!(Vss::register(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn flags_stand_behind_the_operation_and_only_where_it_went_well() {
        let mut body = Operation::HotBackup.encode(BODY_LEN);
        body[8..].copy_from_slice(&NO_AUTO_RECOVERY.to_le_bytes());
        let reply = |status, body: &[u8]| Reply {
            status,
            body: body.to_vec(),
        };
        assert_eq!(
            flags(&reply(Status::OK, &body)).unwrap(),
            Ok(NO_AUTO_RECOVERY)
        );
        let declined = flags(&reply(Status::FAIL, &body)).unwrap();
        assert_eq!(declined, Err(Status::FAIL));
        assert!(flags(&reply(Status::OK, &body[..11])).is_err());
    }
}
