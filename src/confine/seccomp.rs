//! The system calls that `run` takes away: ways out that no network namespace closes.
//!
//! Everything else stays as it is: this is a firewall's filter, not a jailer's. Refusals look like a kernel without
//! the feature (`EAFNOSUPPORT`, `ENOSYS`), so that programs fall back, or `EPERM` where there is nothing to fall
//! back to.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, sock_filter,
};

/// The address families that stay: all others walk past an IP firewall (VSOCK, PACKET, ALG, BLUETOOTH, XDP …).
const FAMILIES: [i32; 4] = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];

/// Terminal requests that type for the user: they put characters into the input queue, or paste the console's.
const TYPING_IOCTLS: [u64; 2] = [libc::TIOCSTI, libc::TIOCLINUX];

/// What a second interface to the same powers would bring back: io_uring makes sockets unseen by this filter.
const ABSENT: [libc::c_long; 3] = [libc::SYS_io_uring_setup, libc::SYS_io_uring_enter, libc::SYS_io_uring_register];

/// The kernel's keyrings are shared with the user's other sessions.
const KEYRINGS: [libc::c_long; 3] = [libc::SYS_add_key, libc::SYS_request_key, libc::SYS_keyctl];

/// The programs to install, in this order. Each further one only refuses more.
///
/// # Errors
/// When the machine is of an architecture that the filter is not written for, or the library refuses its own input.
pub fn programs() -> Result<Vec<BpfProgram>, String> {
    let arch = TargetArch::try_from(std::env::consts::ARCH).map_err(|error| error.to_string())?;
    let mut programs = foreign_abi(arch);
    programs.push(compile(families()?, libc::EAFNOSUPPORT, arch)?);
    programs.push(compile(typing()?, libc::EPERM, arch)?);
    programs.push(compile(whole(&ABSENT), libc::ENOSYS, arch)?);
    programs.push(compile(whole(&KEYRINGS), libc::ENOSYS, arch)?);
    Ok(programs)
}

/// Installs the programs in the calling process. It needs `no_new_privs`, and cannot be undone.
///
/// # Errors
/// The kernel's, in words.
pub fn install(programs: &[BpfProgram]) -> Result<(), String> {
    programs.iter().try_for_each(|program| seccompiler::apply_filter(program)).map_err(|error| error.to_string())
}

type Rules = BTreeMap<libc::c_long, Vec<SeccompRule>>;

fn compile(rules: Rules, errno: i32, arch: TargetArch) -> Result<BpfProgram, String> {
    // A call of another architecture (32-bit on 64-bit) has other numbers, so the library ends its process.
    SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::Errno(errno.cast_unsigned()), arch)
        .and_then(BpfProgram::try_from)
        .map_err(|error| error.to_string())
}

/// `socket` and `socketpair` of any family but [`FAMILIES`].
fn families() -> Result<Rules, String> {
    let others = FAMILIES
        .iter()
        .map(|&family| condition(0, SeccompCmpOp::Ne, u64::from(family.cast_unsigned())))
        .collect::<Result<Vec<_>, _>>()?;
    let rule = SeccompRule::new(others).map_err(|error| error.to_string())?;
    Ok(BTreeMap::from([(libc::SYS_socket, vec![rule.clone()]), (libc::SYS_socketpair, vec![rule])]))
}

/// The kernel reads 32 bits of an ioctl's request, so 32 bits are compared: with more, a set high bit would pass.
fn typing() -> Result<Rules, String> {
    let rules = TYPING_IOCTLS
        .iter()
        .map(|&request| {
            SeccompRule::new(vec![condition(1, SeccompCmpOp::Eq, request)?]).map_err(|error| error.to_string())
        })
        .collect::<Result<Vec<_>, _>>()?;
    Ok(BTreeMap::from([(libc::SYS_ioctl, rules)]))
}

fn whole(calls: &[libc::c_long]) -> Rules {
    calls.iter().map(|&call| (call, Vec::new())).collect()
}

fn condition(argument: u8, operator: SeccompCmpOp, value: u64) -> Result<SeccompCondition, String> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value).map_err(|error| error.to_string())
}

/// On x86-64, the x32 ABI reaches the same calls under numbers with bit 30 set, which the rules above do not see:
/// all of them are refused, as by a kernel without x32. The library has no rule for a range of numbers, so these
/// are five instructions of our own.
fn foreign_abi(arch: TargetArch) -> Vec<BpfProgram> {
    const LOAD_NUMBER: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
    const JUMP_IF_AT_LEAST: u16 = 0x35; // BPF_JMP | BPF_JGE | BPF_K
    const RETURN: u16 = 0x06; // BPF_RET | BPF_K
    const X32_BIT: u32 = 0x4000_0000;
    if !matches!(arch, TargetArch::x86_64) {
        return Vec::new();
    }
    let refuse = libc::SECCOMP_RET_ERRNO | libc::ENOSYS.cast_unsigned();
    vec![vec![
        sock_filter { code: LOAD_NUMBER, jt: 0, jf: 0, k: 0 },
        sock_filter { code: JUMP_IF_AT_LEAST, jt: 0, jf: 1, k: X32_BIT },
        sock_filter { code: RETURN, jt: 0, jf: 0, k: refuse },
        sock_filter { code: RETURN, jt: 0, jf: 0, k: libc::SECCOMP_RET_ALLOW },
    ]]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_program_compiles_on_this_architecture() {
        let programs = programs().unwrap();
        assert!(programs.len() >= 4);
        assert!(programs.iter().all(|program| !program.is_empty()));
    }
}
