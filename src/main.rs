//! The `exeat` command: runs a verb, and ends with its exit code.

use std::process::ExitCode;

use exeat::cli;
use mimalloc::MiMalloc;

/// A request takes some dozens of small allocations, freed in another order; the C library's own spends a fifth of a
/// request's time on them.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    if std::env::args_os().nth(1).is_some_and(|argument| argument == cli::run::init::VERB) {
        return cli::run::init::main();
    }
    cli::main()
}
