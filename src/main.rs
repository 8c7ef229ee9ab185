//! The `exeat` command: runs a verb, and ends with its exit code.

use std::process::ExitCode;

use exeat::cli;

fn main() -> ExitCode {
    if std::env::args_os().nth(1).is_some_and(|argument| argument == cli::run::init::VERB) {
        return cli::run::init::main();
    }
    cli::main()
}
