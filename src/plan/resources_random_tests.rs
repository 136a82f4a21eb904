use proptest::prelude::*;

use super::cpu::weight;
use super::*;

/// The least, the usual and the most keep their places; what is between is rounded up.
#[test]
fn shares_become_weights() {
    for (shares, expected) in [
        (1, 1),
        (2, 1),
        (3, 2),
        (102, 17),
        (512, 59),
        (1024, 100),
        (2048, 174),
        (100_000, 4340),
        (262_143, 10_000),
        (262_144, 10_000),
        (u64::MAX, 10_000),
    ] {
        assert_eq!(weight(shares), expected, "{shares}");
    }
}

/// A number that is often one of those where something begins or ends.
fn number() -> impl Strategy<Value = i64> {
    prop_oneof![
        prop::sample::select(vec![
            -2,
            -1,
            0,
            1,
            2,
            999,
            1000,
            1024,
            1 << 20,
            i64::MAX,
            i64::MIN
        ]),
        any::<i64>(),
    ]
}

proptest! {
    #[test]
    fn greater_shares_are_greater_weights(one in 0_u64..300_000, other in 0_u64..300_000) {
        let (less, more) = (one.min(other), one.max(other));
        prop_assert!(weight(less) <= weight(more));
        prop_assert!((1..=10_000).contains(&weight(one)));
    }

    #[test]
    fn greater_block_weights_are_greater(one in 10_u16..=1000, other in 10_u16..=1000) {
        let (less, more) = (one.min(other), one.max(other));
        prop_assert!(block_io::io_weight(less) <= block_io::io_weight(more));
        prop_assert!((1..=10_000).contains(&block_io::io_weight(one)));
    }

    /// What the scope allows is never less than what the cgroup's file allows.
    #[test]
    fn the_scope_allows_what_the_file_allows(quota in 1000_i64..1 << 40, period in 1000_u64..=1_000_000) {
        let converted = of("1.3.0", &json!({"cpu": {"quota": quota, "period": period}}));
        let PropertyValue::U64(of_second) = converted.properties[0].value else {
            return Err(TestCaseError::fail("no number"));
        };
        let exact = u128::from(u64::try_from(quota).unwrap()) * 1_000_000;
        prop_assert!(u128::from(of_second) * u128::from(period) >= exact);
        prop_assert_eq!(of_second % 10_000, 0);
    }

    #[test]
    fn every_number_is_set_told_or_refused(limit in number(), swap in number(), pids in number(), quota in number()) {
        let converted = of("1.2.0", &json!({
            "memory": {"limit": limit, "swap": swap, "reservation": limit}, "pids": {"limit": pids},
            "cpu": {"quota": quota},
        }));
        for member in ["/memory/limit", "/memory/reservation", "/memory/swap", "/pids/limit"] {
            let pointer = format!("{RESOURCES}{member}");
            let set = converted.settings.iter().any(|s| s.property == pointer);
            let told = converted.notes.iter().any(|n| n.property == pointer);
            let refused = converted.problems.iter().any(|p| p.pointer == pointer);
            // Without a limit of memory, 0 is the same as -1.
            let with_limit = member == "/memory/swap" && swap == 0 && limit == -1;
            prop_assert!(set || told || refused || with_limit, "{}", member);
        }
    }
}
