//! `exeat doctor`: can sandboxes be made here, and if not, what would mend it.
//!
//! It makes a sandbox by the very code of `run` and looks at what fails, so the two never disagree; `run` fails with
//! the same words.

use std::fmt::Write as _;
use std::fs;

use super::run::{self, Fault, Part};
use super::{Exit, say};
use crate::confine::masks;

/// Runs the verb.
#[must_use]
pub(super) fn doctor() -> Exit {
    let mut report = String::new();
    let outcome = run::probe();
    for part in PARTS {
        let mark = match &outcome {
            Err(fault) if fault.part == *part => "FAILS",
            Err(fault) if position(*part) > position(fault.part) => "not tried",
            _ => "ok",
        };
        let _ = writeln!(report, "{mark:>9}  {}", title(*part));
    }
    let healthy = outcome.is_ok();
    if let Err(fault) = outcome {
        let _ = writeln!(report, "\n{}", explain(&fault));
    }
    let _ = writeln!(report, "\nhidden from every sandbox, unless --expose PATH keeps it (below the home directory):");
    for line in masks::CREDENTIALS.chunks(4) {
        let _ = writeln!(report, "  {}", line.join("  "));
    }
    say(&report);
    if healthy { Exit::Success } else { Exit::Failed }
}

/// In the order in which a sandbox is made.
const PARTS: &[Part] = &[
    Part::Namespaces,
    Part::Identity,
    Part::Files,
    Part::Network,
    Part::Rules,
    Part::Terminal,
    Part::Seccomp,
    Part::Directory,
];

fn position(part: Part) -> usize {
    PARTS.iter().position(|other| *other == part).unwrap_or(0)
}

fn title(part: Part) -> &'static str {
    match part {
        Part::Namespaces => "user, network, mount, PID, IPC and UTS namespaces",
        Part::Identity => "a user of the sandbox's own",
        Part::Files => "private /run, /proc, /dev/pts and the trust bundle",
        Part::Network => "loopback with every address local, listeners inside",
        Part::Rules => "nftables with TPROXY",
        Part::Terminal => "a pseudo-terminal",
        Part::Seccomp => "a filter of system calls",
        Part::Directory => "the working directory",
        Part::Talk => "exeat's own first process",
    }
}

/// One fault in words: what failed, why, and what would mend it.
#[must_use]
pub(super) fn explain(fault: &Fault) -> String {
    let mut text = fault.what.clone();
    if fault.errno != 0 {
        let _ = write!(text, ": {}", std::io::Error::from_raw_os_error(fault.errno));
    }
    if let Some(remedy) = remedy(fault) {
        let _ = write!(text, "\n  help: {remedy}");
    }
    text
}

fn remedy(fault: &Fault) -> Option<String> {
    let setting = |path: &str| fs::read_to_string(path).ok().map(|value| value.trim().to_owned());
    match fault.part {
        Part::Namespaces | Part::Identity => Some(namespace_remedy(setting)),
        Part::Files if fault.what.contains("/proc") => Some(
            "this looks like the inside of a container whose /proc is partly hidden; let it have an unmasked /proc \
             (for container engines: --security-opt systempaths=unconfined), or run exeat on the host"
                .to_owned(),
        ),
        Part::Files if fault.errno == libc::ENOSYS => Some("a kernel of 5.12 or newer is needed".to_owned()),
        Part::Network if fault.errno == libc::EAFNOSUPPORT => {
            Some("the kernel has no IPv6 (ipv6.disable=1?): sandboxes need both families".to_owned())
        }
        Part::Rules => Some(
            "the kernel needs nf_tables with TPROXY: as root, `modprobe -a nf_tables nft_tproxy nft_reject_inet`, \
             and name them in /etc/modules-load.d/exeat.conf to keep them (CONFIG_NFT_TPROXY, CONFIG_NFT_REJECT_INET)"
                .to_owned(),
        ),
        Part::Terminal => Some("the kernel needs devpts with several instances (Linux 4.7 or newer)".to_owned()),
        Part::Seccomp => Some("the kernel needs CONFIG_SECCOMP_FILTER".to_owned()),
        Part::Directory => Some(
            "the command would start in this directory; change to one that the sandbox's user may enter (for root, \
             that user is nobody)"
                .to_owned(),
        ),
        Part::Files | Part::Network | Part::Talk => None,
    }
}

/// Which of the known restrictions of user namespaces stands in the way.
fn namespace_remedy(setting: impl Fn(&str) -> Option<String>) -> String {
    let is = |path: &str, value: &str| setting(path).is_some_and(|found| found == value);
    if is("/proc/sys/kernel/unprivileged_userns_clone", "0") {
        "unprivileged user namespaces are switched off: as root, `sysctl -w kernel.unprivileged_userns_clone=1`, or \
         run exeat as root"
            .to_owned()
    } else if is("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1") {
        "AppArmor restricts unprivileged user namespaces (Ubuntu): give exeat a profile with `userns,`, or as root \
         `sysctl -w kernel.apparmor_restrict_unprivileged_userns=0`, or run exeat as root"
            .to_owned()
    } else if is("/proc/sys/user/max_user_namespaces", "0") {
        "user namespaces are limited to none: as root, `sysctl -w user.max_user_namespaces=10000`".to_owned()
    } else {
        "the kernel, a container engine's seccomp profile or a security module refuses user namespaces to this user; \
         allow unshare(CLONE_NEWUSER), or run exeat as root on the host"
            .to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_restriction_of_user_namespaces_has_its_own_remedy() {
        let only = |path: &'static str, value: &'static str| {
            namespace_remedy(move |asked| (asked == path).then(|| value.to_owned()))
        };
        assert!(only("/proc/sys/kernel/unprivileged_userns_clone", "0").contains("unprivileged_userns_clone=1"));
        let ubuntu = only("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1");
        assert!(ubuntu.contains("AppArmor"));
        assert!(only("/proc/sys/user/max_user_namespaces", "0").contains("max_user_namespaces"));
        assert!(only("/none", "0").contains("unshare(CLONE_NEWUSER)"));
    }
}
