//! Device classes, and their names for listings. Protocol section 1.

use crate::Guid;

/// Key-value pairs and IP configuration.
pub const KVP: Guid = Guid::from_u128(0xa9a0f4e7_5a45_4d96_b827_8a841e8c03e6);
/// Volume snapshots.
pub const VSS: Guid = Guid::from_u128(0x35fa2e29_ea23_4236_96ae_3a6ebacba440);
/// File copy.
pub const FILE_COPY: Guid = Guid::from_u128(0x34d14be3_dee4_41c8_9ae7_6b174977c192);

const NAMES: [(u128, &str); 19] = [
    (0xf8615163_df3e_46c5_913f_f2d2f965ed0e, "network adapter"),
    (0xba6163d9_04a1_4d29_b605_72e2ffb1dc7f, "SCSI controller"),
    (0x32412632_86cb_44a2_9b5c_50d1417354f5, "IDE controller"),
    (
        0x2f9bcc4a_0069_4af3_b76b_6fd0be528cda,
        "Fibre Channel adapter",
    ),
    (0xcfa8b69e_5b4a_4cc0_b98b_8ba1a1f3f95a, "mouse"),
    (0xf912ad6d_2b17_48ea_bd65_f927a61c7684, "keyboard"),
    (0xda0a7802_e377_4aac_8e77_0558eb1073f8, "video adapter"),
    (0x57164f39_9115_4e78_ab55_382f3bd5422d, "heartbeat"),
    (0x0e0b6031_5213_4934_818b_38d90ced39db, "shutdown"),
    (
        0x9527e630_d0ae_497b_adce_e80ab0175caf,
        "time synchronisation",
    ),
    (KVP.to_u128(), "key-value exchange (KVP)"),
    (VSS.to_u128(), "volume snapshots (VSS)"),
    (FILE_COPY.to_u128(), "file copy (guest services)"),
    (0x525074dc_8985_46e2_8057_a307dc18a502, "dynamic memory"),
    (0x44c4f61d_4444_4400_9d52_802e27ede19f, "PCI pass-through"),
    (0x8c2eaf3d_32a7_4b09_ab99_bd1f1c86b501, "NetworkDirect"),
    (0xf8e65716_3cb3_4a06_9a60_1889c5cccab5, "activation (AVMA)"),
    (0x3375baf4_9e15_4b30_b765_67acb10d607b, "activation (AVMA)"),
    (0x276aacf4_ac15_426c_98dd_7521ad3f01fe, "remote desktop"),
];

/// Returns the name of a class; `None` if it is not known here.
pub fn name(class: Guid) -> Option<&'static str> {
    NAMES
        .iter()
        .find(|(number, _)| Guid::from_u128(*number) == class)
        .map(|(_, name)| *name)
}
