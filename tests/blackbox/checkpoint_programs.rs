//! Programs of Debian's, checkpointed in the middle of what they do.

use std::path::Path;

use serde_json::json;

use crate::checkpoint_lab::{Lab, checkpoints_or_skip};
use crate::harness::{Fixture, skip, wait_for};

/// A container on the root filesystem with these programs, which is read-only, with a /tmp in memory.
fn programs() -> Option<Lab> {
    let root = std::env::var("LODGER_TEST_PROGRAMS").ok()?;
    let mut fixture = Fixture::new();
    assert!(Path::new(&root).is_dir(), "{root}");
    fixture.config["root"] = json!({"path": root, "readonly": true});
    fixture.config["process"]["cwd"] = json!("/tmp");
    fixture.mount(json!({"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["mode=1777", "size=64m"]}));
    Some(Lab::of(fixture))
}

macro_rules! programs_or_skip {
    () => {{
        checkpoints_or_skip!();
        match programs() {
            Some(lab) => lab,
            None => skip!("redis and Python are not to be had here"),
        }
    }};
}

/// What a command in the container says.
#[track_caller]
fn inside(lab: &Lab, command: &[&str]) -> String {
    lab.lodger(&[&["exec", "c"], command].concat()).ok()
}

/// Waits until a command in the container succeeds.
#[track_caller]
fn inside_at_last(lab: &Lab, command: &[&str], said: &str) {
    let what = format!("{command:?} to say {said:?}");
    wait_for(&what, || {
        let ran = lab.lodger(&[&["exec", "c"], command].concat());
        (ran.code == 0 && ran.out.contains(said)).then_some(())
    });
}

#[test]
fn redis_keeps_its_data_and_its_client() {
    let mut lab = programs_or_skip!();
    lab.fixture.sh(
        "redis-server --bind 127.0.0.1 --save '' --dir /tmp --enable-debug-command yes >/tmp/log 2>&1 &
        until redis-cli ping >/dev/null 2>&1; do sleep 0.05; done
        redis-cli subscribe news >/tmp/heard &
        wait",
    );
    lab.fixture.write_config();
    lab.lodger(&["run", "-d", "c"]).ok();
    inside_at_last(&lab, &["cat", "/tmp/heard"], "subscribe\nnews\n1");
    let fill = "for i = 1, 20000 do redis.call('set', 'key' .. i, string.rep(i, 10)) end
        redis.call('rpush', 'list', 'a', 'b', 'c') return redis.call('dbsize')";
    assert_eq!(
        inside(&lab, &["redis-cli", "eval", fill, "0"]).trim(),
        "20001"
    );
    let look = || {
        let digest = inside(&lab, &["redis-cli", "debug", "digest"]);
        let run = inside(&lab, &["redis-cli", "info", "server"]);
        let run = run
            .lines()
            .find(|line| line.starts_with("run_id"))
            .unwrap()
            .to_owned();
        (digest, run)
    };
    let before = look();
    lab.checkpoint(&["--tcp-established"]).ok();
    assert_eq!(lab.ids(), [""; 0]);
    lab.restore(&["--tcp-established", "-d"], "c").ok();
    assert_eq!(look(), before);
    assert_eq!(
        inside(&lab, &["redis-cli", "get", "key777"]).trim(),
        "777".repeat(10)
    );
    assert_eq!(
        inside(&lab, &["redis-cli", "lrange", "list", "0", "-1"]),
        "a\nb\nc\n"
    );
    // The client is connected still, and is told.
    assert_eq!(
        inside(&lab, &["redis-cli", "publish", "news", "hello"]).trim(),
        "1"
    );
    inside_at_last(&lab, &["cat", "/tmp/heard"], "message\nnews\nhello");
    assert_eq!(inside(&lab, &["redis-cli", "incr", "counter"]).trim(), "1");
}

#[test]
fn an_established_connection_is_not_dropped_unasked() {
    let mut lab = programs_or_skip!();
    lab.fixture.sh(
        "redis-server --bind 127.0.0.1 --save '' --dir /tmp >/tmp/log 2>&1 &
        until redis-cli ping >/dev/null 2>&1; do sleep 0.05; done
        redis-cli subscribe news >/tmp/heard &
        wait",
    );
    lab.fixture.write_config();
    lab.lodger(&["run", "-d", "c"]).ok();
    inside_at_last(&lab, &["cat", "/tmp/heard"], "subscribe\nnews\n1");
    lab.checkpoint(&[]).fails(1, "--tcp-established");
    assert_eq!(lab.fixture.status("c"), "running");
    assert_eq!(
        inside(&lab, &["redis-cli", "publish", "news", "hello"]).trim(),
        "1"
    );
    inside_at_last(&lab, &["cat", "/tmp/heard"], "message\nnews\nhello");
}

/// Computes for some seconds in two threads and a generator, and writes how far it is and what comes of it. It does not get to its end
/// before it is told to go on.
const COMPUTATION: &str = "
import hashlib, os, threading, time
N = 600000
LAST = N * 9 // 10
def wait(): return not os.path.exists('/tmp/go')
def numbers(x):
    while True:
        x = (x * 6364136223846793005 + 1442695040888963407) % 2**64
        yield x
results, seen = {}, {}
def work(name):
    digest, source = hashlib.sha256(), numbers(len(name))
    for i in range(N):
        x = next(source)
        digest.update(x.to_bytes(8, 'little'))
        seen[x % 1000] = seen.get(x % 1000, 0) + 1
        if i == N // 10 and name == 'first':
            open('/tmp/begun', 'w').close()
        while i == LAST and wait(): time.sleep(0.01)
    results[name] = digest.hexdigest()
threads = [threading.Thread(target=work, args=(name,)) for name in ('first', 'second')]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(results['first'], results['second'], len(seen), flush=True)
with open('/tmp/result.new', 'w') as f:
    print(results['first'], results['second'], len(seen), file=f)
os.rename('/tmp/result.new', '/tmp/result')
threading.Event().wait()
";

#[test]
fn python_ends_a_computation_that_was_interrupted() {
    let mut lab = programs_or_skip!();
    // The same without an interruption: it ends where it would wait.
    let whole = COMPUTATION
        .replace("threading.Event().wait()", "")
        .replace(" and wait()", " and False");
    lab.fixture.args(&["/usr/bin/python3", "-c", &whole]);
    let expected = lab.fixture.run().ok();
    lab.fixture.args(&["/usr/bin/python3", "-c", COMPUTATION]);
    lab.fixture.write_config();
    lab.lodger(&["run", "-d", "c"]).ok();
    inside_at_last(&lab, &["ls", "/tmp"], "begun");
    for _ in 0..2 {
        assert_eq!(
            inside(&lab, &["ls", "/tmp"]),
            "begun\n",
            "it is in the middle"
        );
        lab.checkpoint(&[]).ok();
        lab.restore(&["-d"], "c").ok();
    }
    inside(&lab, &["sh", "-c", ": >/tmp/go"]);
    inside_at_last(&lab, &["ls", "/tmp/result"], "result");
    assert_eq!(inside(&lab, &["cat", "/tmp/result"]), expected);
}
