//! What a network namespace does not confine: mounts, sockets, terminal, seccomp, environment.
