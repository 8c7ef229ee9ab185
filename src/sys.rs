//! Every syscall wrapper; the only `unsafe`.
