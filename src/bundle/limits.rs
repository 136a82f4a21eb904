//! `linux.resources`: what asks for a limit is refused, as lodger makes no cgroup to set it in; what asks for none passes.

use serde_json::Value;

use super::Problem;
use super::raw::visit;

/// A property of `linux.resources` that is read before it is refused.
struct Limit {
    /// `*` stands for any array element or object member.
    pattern: &'static str,
    /// Whether the value asks for a limit.
    asks: fn(&Value) -> bool,
    /// How to do without it.
    remedy: &'static str,
}

/// Properties whose numbers say "no limit" in one way or another (config-linux.md, "Control groups").
///
/// 0 passes where every runtime takes it for a value that was not given: engines write it for want of one. For
/// `pids.limit` that was so up to version 1.2 of the specification; see [`problems`].
const LIMITS: &[Limit] = &[
    limit("/linux/resources/memory/limit", positive, MEMORY),
    limit("/linux/resources/memory/reservation", positive, MEMORY),
    limit("/linux/resources/memory/swap", positive, MEMORY),
    limit("/linux/resources/memory/kernel", positive, MEMORY),
    limit("/linux/resources/memory/kernelTCP", positive, MEMORY),
    limit("/linux/resources/memory/swappiness", given, MEMORY),
    limit("/linux/resources/memory/disableOOMKiller", given, MEMORY),
    // What version 2 does always, and what only an update looks at.
    limit("/linux/resources/memory/useHierarchy", never, MEMORY),
    limit("/linux/resources/memory/checkBeforeUpdate", never, MEMORY),
    limit("/linux/resources/cpu/shares", uncommon_shares, CPU),
    limit("/linux/resources/cpu/quota", positive, CPU),
    limit("/linux/resources/cpu/burst", positive, CPU),
    limit("/linux/resources/cpu/realtimeRuntime", positive, CPU),
    // A period limits nothing: what may be used of it is the quota's to say.
    limit("/linux/resources/cpu/period", never, CPU),
    limit("/linux/resources/cpu/realtimePeriod", never, CPU),
    limit("/linux/resources/cpu/idle", positive, CPU),
    limit("/linux/resources/cpu/cpus", given, CPU),
    limit("/linux/resources/cpu/mems", given, CPU),
    limit("/linux/resources/pids/limit", positive, PIDS),
    limit("/linux/resources/blockIO/weight", positive, BLOCK_IO),
    limit("/linux/resources/blockIO/leafWeight", positive, BLOCK_IO),
    limit("/linux/resources/blockIO/*", given_list, BLOCK_IO),
    limit("/linux/resources/hugepageLimits", given, PLAIN),
    limit("/linux/resources/network/classID", positive, PLAIN),
    limit("/linux/resources/network/priorities", given, PLAIN),
    limit("/linux/resources/rdma", given, PLAIN),
    limit("/linux/resources/unified", given, PLAIN),
];

const MEMORY: &str = "leave out --memory and its like";
const CPU: &str =
    "leave out --cpus, --cpu-shares and their like; `ctr run` needs --cpu-shares 0 or 1024";
const PIDS: &str = "`podman run --pids-limit=-1`, or pids_limit=0 in containers.conf";
const BLOCK_IO: &str = "leave out --blkio-weight, --device-read-bps and their like";
const PLAIN: &str = "leave it out";

/// What a cgroup has without being asked (config-linux.md, "CPU").
pub(crate) const USUAL_SHARES: u64 = 1024;

const fn limit(pattern: &'static str, asks: fn(&Value) -> bool, remedy: &'static str) -> Limit {
    Limit {
        pattern,
        asks,
        remedy,
    }
}

/// Whether `pattern` is a property of `linux.resources` that is refused when it asks for a limit.
pub fn is_limit(pattern: &str) -> bool {
    let beneath = |l: &Limit| l.pattern == pattern || l.pattern.starts_with(&format!("{pattern}/"));
    LIMITS.iter().any(beneath)
}

/// Lists the limits that `config` asks for.
pub(super) fn problems(config: &mut Value) -> Vec<Problem> {
    let mut problems = Vec::new();
    if config.pointer("/linux/resources").is_none() {
        return problems;
    }
    let zero_is_valid = zero_is_a_limit(config.get("ociVersion"));
    for limit in LIMITS {
        visit(config, limit.pattern, &mut |pointer, value| {
            let none = limit.remedy == PIDS && zero_is_valid && value.as_i64() == Some(0);
            if (limit.asks)(value) || none {
                problems.push(Problem::new(
                    pointer,
                    format!(
                        "not supported yet: lodger makes no cgroup that could have a limit; {}",
                        limit.remedy
                    ),
                ));
            }
        });
    }
    problems
}

/// Version 1.3 of the specification says that a container may be allowed 0 processes; before, 0 was no limit.
fn zero_is_a_limit(version: Option<&Value>) -> bool {
    let version = version.and_then(Value::as_str).unwrap_or_default();
    !["1.0.", "1.1.", "1.2."]
        .iter()
        .any(|old| version.starts_with(old))
}

fn never(_: &Value) -> bool {
    false
}

/// Numbers that are too big or too small for the type are for the parser to find.
fn positive(value: &Value) -> bool {
    value.as_f64().is_some_and(|number| number > 0.0)
}

fn uncommon_shares(value: &Value) -> bool {
    positive(value) && value.as_u64() != Some(USUAL_SHARES)
}

fn given_list(value: &Value) -> bool {
    value.is_array() && given(value)
}

fn given(value: &Value) -> bool {
    super::support::asks(value)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn found(version: &str, resources: Value) -> Vec<String> {
        let mut config = json!({"ociVersion": version, "linux": {"resources": resources}});
        let problems = problems(&mut config);
        problems.into_iter().map(|p| p.pointer).collect()
    }

    #[test]
    fn what_asks_for_no_limit_passes() {
        let asks_nothing = [
            json!({}),
            json!({"pids": {"limit": -1}, "memory": {"limit": -1, "swap": -1, "reservation": -1}}),
            json!({"pids": {"limit": 0}, "memory": {"limit": 0, "useHierarchy": true}}),
            json!({"cpu": {"shares": 0, "quota": -1, "period": 100_000, "cpus": "", "mems": ""}}),
            json!({"cpu": {"shares": 1024, "quota": 0, "realtimePeriod": 1_000_000}}),
            json!({"blockIO": {"weight": 0, "weightDevice": [], "throttleReadBpsDevice": null}}),
            json!({"hugepageLimits": [], "network": {"classID": 0}, "rdma": {}, "unified": {}}),
            json!({"devices": [{"allow": false, "access": "rwm"}]}),
        ];
        for resources in asks_nothing {
            assert_eq!(
                found("1.0.2-dev", resources.clone()),
                [""; 0],
                "{resources}"
            );
        }
    }

    #[test]
    fn every_limit_is_found_at_its_place() {
        for (resources, pointer) in [
            (json!({"pids": {"limit": 2048}}), "pids/limit"),
            (json!({"memory": {"limit": 1}}), "memory/limit"),
            (json!({"memory": {"swappiness": 0}}), "memory/swappiness"),
            (json!({"cpu": {"shares": 512}}), "cpu/shares"),
            (json!({"cpu": {"quota": 1000}}), "cpu/quota"),
            (json!({"cpu": {"cpus": "0-1"}}), "cpu/cpus"),
            (json!({"blockIO": {"weight": 10}}), "blockIO/weight"),
            (
                json!({"blockIO": {"throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 1}]}}),
                "blockIO/throttleReadBpsDevice",
            ),
            (
                json!({"hugepageLimits": [{"pageSize": "2MB", "limit": 0}]}),
                "hugepageLimits",
            ),
            (json!({"network": {"classID": 7}}), "network/classID"),
            (json!({"rdma": {"mlx5_1": {"hcaHandles": 3}}}), "rdma"),
            (json!({"unified": {"memory.high": "1"}}), "unified"),
        ] {
            let expected = format!("/linux/resources/{pointer}");
            assert_eq!(found("1.2.1", resources), [expected]);
        }
    }

    #[test]
    fn no_processes_at_all_is_a_limit_since_version_1_3() {
        for (version, limits) in [("1.0.2-dev", 0), ("1.2.1", 0), ("1.3.0", 1), ("1.30.0", 1)] {
            let found = found(version, json!({"pids": {"limit": 0}}));
            assert_eq!(found.len(), limits, "{version}");
        }
    }

    #[test]
    fn a_limit_is_known_by_itself_and_by_what_it_is_part_of() {
        assert!(is_limit("/linux/resources/memory") && is_limit("/linux/resources/rdma"));
        assert!(!is_limit("/linux/resources/devices") && !is_limit("/linux/res"));
    }
}
