//! Where the branches of machine code lead, as far as one file tells. x86-64 only.
//!
//! Must not know functions, allocators or probes.

use iced_x86::{Code, Decoder, DecoderOptions, FlowControl, Instruction, OpKind, Register};
use object::ReadRef;

use super::image::{Image, Slot};

/// Where a direct or linked branch leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// To an address of this file.
    Address(u64),
    /// To what the dynamic linker binds to a name.
    Import(Vec<u8>),
    /// To the variant of one of this file's functions that was picked when it was loaded.
    Resolved,
    /// To an address that is known at run time only.
    Unknown,
}

/// Where a jump or call leads; a stub of the procedure linkage table is looked through.
pub(super) fn target<'d, R: ReadRef<'d>>(image: &Image<'d, R>, branch: &Instruction) -> Target {
    if let Some(address) = near_target(branch) {
        return linkage_stub(image, address).unwrap_or(Target::Address(address));
    }
    slot_of(image, branch).unwrap_or(Target::Unknown)
}

/// The address that a direct jump or call carries.
pub(super) fn near_target(branch: &Instruction) -> Option<u64> {
    matches!(branch.op0_kind(), OpKind::NearBranch64).then(|| branch.near_branch_target())
}

/// What is behind `jmp *slot(%rip)` or `call *slot(%rip)`.
fn slot_of<'d, R: ReadRef<'d>>(image: &Image<'d, R>, branch: &Instruction) -> Option<Target> {
    let linked = branch.op0_kind() == OpKind::Memory && branch.memory_base() == Register::RIP;
    let slot = linked
        .then(|| image.slot(branch.memory_displacement64()))
        .flatten()?;
    Some(match slot {
        Slot::Import(name) => Target::Import(name.to_vec()),
        Slot::Resolved => Target::Resolved,
        Slot::Address(address) => Target::Address(address),
    })
}

/// Where a stub (`[endbr64] jmp *slot(%rip)`) leads.
fn linkage_stub<'d, R: ReadRef<'d>>(image: &Image<'d, R>, address: u64) -> Option<Target> {
    let code = image.code(address, 16)?;
    let jump = Decoder::with_ip(64, code, address, DecoderOptions::NONE)
        .into_iter()
        .find(|instruction| instruction.code() != Code::Endbr64)?;
    (jump.flow_control() == FlowControl::IndirectBranch)
        .then(|| slot_of(image, &jump))
        .flatten()
}

/// Whether an instruction does nothing and may stand between functions.
pub(super) fn is_padding(instruction: &Instruction) -> bool {
    use iced_x86::Mnemonic::{Int3, Nop};
    let plain_exchange =
        instruction.code() == Code::Xchg_rm16_r16 && instruction.op0_register() == instruction.op1_register();
    matches!(instruction.mnemonic(), Nop | Int3) || plain_exchange
}
