//! Black-box tests: a runtime's binary, run by an ordinary user on a real root filesystem.
//!
//! `tests/run` builds them and gives them, through the environment: `LODGER_UNDER_TEST` (lodger, crun or runc),
//! `LODGER_BIN`, `LODGER_PROBE`, and `LODGER_TEST_ROOTFS`. With a peer the same tests run, so that a fault of this
//! machine can be told from a fault of lodger. A test that cannot run says `SKIP: why` and returns.
#![forbid(unsafe_code)]
#![expect(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::panic,
    reason = "test code: it starts the program under test, writes bundles, and fails by panicking"
)]

mod admin;
mod admin_changes;
mod admin_lab;
mod admin_ranges;
mod alone;
mod attacks;
mod audit;
mod base;
mod clocks;
mod closed;
mod combinations;
mod config;
mod copy_up;
mod cve_files;
mod cve_mounts;
mod cve_paths;
mod cve_process;
mod delegated_bus_hostile;
mod delegated_events;
mod delegated_fs;
mod delegated_life;
mod delegated_pause;
mod delegated_update;
mod devices;
mod doctor;
mod engines;
mod engines_buildah;
mod engines_bundle;
mod engines_containerd;
mod engines_docker;
mod engines_images;
mod engines_lab;
mod engines_life;
mod engines_podman;
mod errors;
mod events;
mod exec;
mod fake_root;
mod features;
mod flags;
mod foreign;
mod foreign_namespaces;
mod groups;
mod harness;
mod help;
mod hook_calls;
mod hook_config;
mod hook_failures;
mod hooks;
mod image_acls;
mod image_attacks;
mod image_bundle;
mod image_config;
mod image_hostile;
mod image_hostile_archives;
mod image_import;
mod image_lab;
mod image_layout;
mod image_life;
mod image_real;
mod image_run;
mod image_sharing;
mod image_stop;
mod image_store;
mod image_store_lab;
mod image_victim;
mod install;
mod isolation;
mod jobs;
mod kills;
mod labels;
mod ladder;
mod lifecycle;
mod logs;
mod machine_basics;
mod machine_events;
mod machine_limits;
mod machine_podman;
mod machine_units;
mod machine_update;
mod moments;
mod mounts;
mod namespaces;
mod nested;
mod netdevices;
mod notify;
mod numa;
mod output;
mod overlay;
mod places;
mod proc_modes;
mod process;
mod ps;
mod pty;
mod races;
mod rdt;
mod reboot;
mod refusals;
mod scheduling;
mod scopes;
mod seccomp;
mod seccomp_cache;
mod seccomp_notify;
mod seccomp_profile;
mod security_md;
mod session_basics;
mod session_limits;
mod session_pause;
mod session_payload;
mod session_units;
mod single_id;
mod sockets;
mod state;
mod stress;
mod strict;
mod strings;
mod sweep;
mod tarball;
mod terminal;
mod tmux;
mod tracing;
mod units;
mod update;
mod verbs;
mod weak;
