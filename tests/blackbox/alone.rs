//! The binary alone: copied into a home directory of a system that it was not built on.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::admin_lab::source;
use crate::base::tidy;
use crate::harness::{Ran, copy_program, lodger_only, runtime_binary, skip, spawn, which};

/// The other release's root filesystem, in which ann has a home with lodger in it, and a bundle. It is entered as root of a user
/// namespace that maps the caller's subordinate ids, by pivot_root(2): in a chroot the kernel makes no user namespaces.
struct Release {
    directory: TempDir,
}

/// Leaves the test where there is no other release, or no way into it.
macro_rules! release {
    () => {
        match std::env::var_os("LODGER_TEST_RELEASE") {
            Some(tar) => Release::new(Path::new(&tar)),
            None => skip!("there is no root filesystem of another release"),
        }
    };
}

/// Mounts what a system has, and leaves the outer one. Its arguments: the root, a user, and her command.
const ENTER: &str = r#"
root=$1
shift
mount --bind "$root" "$root"
mount --rbind /dev "$root/dev"
mount --rbind /sys "$root/sys"
mount -t proc proc "$root/proc"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
cd "$root"
pivot_root . mnt
PATH=/usr/bin:/usr/sbin
export PATH
/usr/bin/busybox umount -l /mnt
chown -R 1000:1000 /home/ann
case $1 in
mapped) chmod u+s /usr/bin/newuidmap /usr/bin/newgidmap ;;
unmapped) rm -f /usr/bin/newuidmap /usr/bin/newgidmap ;;
esac
shift
cd /home/ann
exec setpriv --reuid 1000 --regid 1000 --clear-groups --inh-caps=-all "$@"
"#;

impl Release {
    fn new(tar: &Path) -> Release {
        let directory = tempfile::Builder::new()
            .prefix("release")
            .tempdir()
            .unwrap();
        let release = Release { directory };
        let mut unpack = Command::new("tar");
        unpack
            .args(["-x", "--no-same-owner", "--exclude=./dev/*", "-f"])
            .arg(tar)
            .arg("-C")
            .arg(release.path(""));
        spawn(&mut unpack, b"").wait().ok();
        for name in [
            "dev",
            "proc",
            "sys",
            "tmp",
            "mnt",
            "home/ann/web/rootfs/bin",
        ] {
            fs::create_dir_all(release.path(name)).unwrap();
        }
        for (name, text) in [
            (
                "etc/passwd",
                "root:x:0:0::/root:/bin/sh\nann:x:1000:1000::/home/ann:/bin/sh\n",
            ),
            ("etc/group", "root:x:0:\nann:x:1000:\n"),
            ("etc/subuid", "ann:2000:60000\n"),
            ("etc/subgid", "ann:2000:60000\n"),
        ] {
            fs::write(release.path(name), text).unwrap();
        }
        copy_program(&runtime_binary(), &release.path("home/ann/lodger"));
        let sh = release.path("home/ann/web/rootfs/bin/sh");
        copy_program(&which("busybox"), &sh);
        for applet in ["grep", "hostname", "id"] {
            symlink("sh", sh.with_file_name(applet)).unwrap();
        }
        release
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Runs a shell script as ann, with nothing in her environment; `unmapped` takes the helpers that map ids away.
    fn ann(&self, helpers: &str, script: &str) -> Ran {
        let mut command = Command::new("unshare");
        command
            .args(["--user", "--map-root-user", "--map-auto", "--mount"])
            .args(["--pid", "--fork", "sh", "-ec", ENTER, "sh"])
            .arg(self.path(""))
            .args([helpers, "env", "-i", "/usr/bin/sh", "-ec", script]);
        spawn(&mut command, b"").wait()
    }
}

impl Drop for Release {
    fn drop(&mut self) {
        // What belongs to subordinate ids.
        let mut command = Command::new("unshare");
        command
            .args(["--user", "--map-root-user", "--map-auto", "rm", "-rf"])
            .arg(self.path("home"));
        tidy(|| drop(spawn(&mut command, b"").wait()));
    }
}

/// A bundle as spec writes it, with a program that tells where it is, and the run of it.
const RUN: &str = r#"
cd web
~/lodger spec
busybox sed -i -e 's/"terminal": true/"terminal": false/' \
    -e 's/^[[:space:]]*"sh"$/"sh", "-c", "echo id $(id -u) in $(hostname); grep -c . \/proc\/self\/uid_map"/' config.json
~/lodger run web
~/lodger list -q
"#;

/// What libc sets HOME to is not there without a login.
fn at_home(script: &str) -> String {
    format!("HOME=/home/ann PATH=/usr/bin\n{script}")
}

#[test]
fn the_binary_needs_no_file_of_the_system() {
    lodger_only!("the static binary");
    let binary = fs::read(runtime_binary()).unwrap();
    let number = |offset: usize, length: usize| {
        let bytes = &binary[offset..offset + length];
        bytes
            .iter()
            .rev()
            .fold(0_usize, |sum, byte| sum << 8 | usize::from(*byte))
    };
    assert_eq!(&binary[..6], b"\x7fELF\x02\x01", "64 bits, little-endian");
    // elf(5): e_phoff, e_phentsize and e_phnum; a segment begins with p_type.
    let (offset, size, count) = (number(32, 8), number(54, 2), number(56, 2));
    let types: Vec<usize> = (0..count).map(|at| number(offset + at * size, 4)).collect();
    const PT_LOAD: usize = 1;
    const PT_DYNAMIC: usize = 2;
    const PT_INTERP: usize = 3;
    assert!(types.contains(&PT_LOAD), "{types:?}");
    assert!(!types.contains(&PT_INTERP), "an interpreter: {types:?}");
    assert!(!types.contains(&PT_DYNAMIC), "libraries: {types:?}");
    let ldd = spawn(Command::new("ldd").arg(runtime_binary()), b"").wait();
    assert!(
        format!("{}{}", ldd.out, ldd.err).contains("not a dynamic executable"),
        "{ldd:?}"
    );
}

#[test]
fn alone_in_a_home_of_another_release_it_runs_without_helpers() {
    lodger_only!("the static binary");
    let release = release!();
    let ran = release.ann("unmapped", &at_home(RUN));
    assert_eq!(ran.code, 0, "{ran:#?}");
    assert_eq!(ran.out, "id 0 in lodger\n1\n", "{ran:#?}");
    assert!(ran.err.contains("note:"), "one id, unsaid: {ran:#?}");
    let ran = release.ann("unmapped", "/home/ann/lodger features");
    assert!(ran.ok().contains("ociVersionMin"));
}

#[test]
fn alone_in_a_home_of_another_release_it_runs_with_helpers() {
    lodger_only!("the static binary");
    let release = release!();
    let ran = release.ann("mapped", &at_home(RUN));
    assert_eq!(ran.code, 0, "{ran:#?}");
    assert_eq!(ran.out, "id 0 in lodger\n2\n", "{ran:#?}");
}

/// AppArmor 4 is what the profile is for; Debian 12 has version 3.
#[test]
fn the_apparmor_profile_is_one_for_a_parser_of_version_4() {
    lodger_only!("the AppArmor profile");
    let release = release!();
    let profile = release.path("etc/apparmor.d/lodger");
    let check = "apparmor_parser --skip-kernel-load --skip-cache --features-file /etc/apparmor.d/abi/4.0 --names /etc/apparmor.d/lodger && \
        apparmor_parser --skip-kernel-load --skip-cache --features-file /etc/apparmor.d/abi/4.0 /etc/apparmor.d/lodger";
    let check = format!("PATH=/usr/sbin; {check}");
    fs::copy(source("contrib/apparmor/lodger"), &profile).unwrap();
    assert_eq!(release.ann("mapped", &check).ok(), "lodger\n");

    let tunables = release.path("etc/apparmor.d/tunables/lodger.d");
    fs::create_dir(&tunables).unwrap();
    fs::write(
        tunables.join("paths"),
        "@{lodger} += /home/*/.local/bin/lodger\n",
    )
    .unwrap();
    assert_eq!(release.ann("mapped", &check).ok(), "lodger\n");

    // That it can fail.
    let text = fs::read_to_string(&profile).unwrap();
    fs::write(&profile, text.replace("userns,", "usernses,")).unwrap();
    let ran = release.ann("mapped", &check);
    assert_ne!(ran.code, 0, "{ran:?}");
}
