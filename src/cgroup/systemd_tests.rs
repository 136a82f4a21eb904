use std::os::unix::net::UnixStream;

use super::super::played::{LONG, SHORT, Script, Server, refuse, reply, say, systemd};
use super::*;
use crate::cgroup::bus::Patience;
use crate::error::Error;

const UNIT: &str = "lodger-c.scope";

fn job_removed(stream: &mut UnixStream, job: u32, result: &str) {
    let path = format!("/org/freedesktop/systemd1/job/{job}");
    let body = (job, ObjectPath::try_from(path).unwrap(), UNIT, result);
    let signal = Message::signal(MANAGER_PATH, MANAGER, "JobRemoved");
    say(stream, &signal.build(&body).unwrap());
}

fn job(stream: &mut UnixStream, call: &Message, job: u32) {
    let path = format!("/org/freedesktop/systemd1/job/{job}");
    reply(stream, call, &ObjectPath::try_from(path).unwrap());
}

/// The properties of the scope in a call of StartTransientUnit.
fn properties(call: &Message) -> Vec<String> {
    type Body<'a> = (
        String,
        String,
        Vec<(String, Variant<'a>)>,
        Vec<(String, Vec<(String, Variant<'a>)>)>,
    );
    let body = call.body();
    let (unit, mode, properties, _): Body<'_> = body.deserialize().unwrap();
    assert_eq!((unit.as_str(), mode.as_str()), (UNIT, "fail"));
    properties.into_iter().map(|(name, _)| name).collect()
}

fn property(name: &str, since: u32) -> UnitProperty {
    UnitProperty {
        property: "/linux/resources".to_owned(),
        name: name.to_owned(),
        value: PropertyValue::U64(7),
        since,
    }
}

fn scope(properties: Vec<UnitProperty>) -> Scope {
    Scope {
        unit: UNIT.to_owned(),
        slice: Some("user.slice".to_owned()),
        description: "a container".to_owned(),
        properties,
        pid: 7,
    }
}

#[test]
fn a_scope_is_started_and_the_end_of_its_job_waited_for() {
    let script: Script = Box::new(|stream, call, method| {
        match method {
            "StartTransientUnit" => {
                let given = properties(call);
                for name in ["Delegate", "PIDs", "Slice", "CollectMode", "MemoryMax"] {
                    assert!(given.iter().any(|g| g == name), "{name} in {given:?}");
                }
                assert!(!given.iter().any(|g| g == "MemoryZSwapMax"), "{given:?}");
                // Another's job, and ours before its answer: order is not to matter.
                job_removed(stream, 1, "failed");
                job_removed(stream, 2, "done");
                job(stream, call, 2);
            }
            "Get" if call.header().path().unwrap().as_str().contains("/unit/") => {
                let path = "/org/freedesktop/systemd1/unit/lodger_2dc_2escope";
                assert_eq!(call.header().path().unwrap().as_str(), path);
                reply(stream, call, &Variant::from("/user.slice/lodger-c.scope"));
            }
            _ => return None,
        }
        Some(())
    });
    let server = systemd("252.38-1~deb12u1", script);
    let wanted = vec![property("MemoryMax", 231), property("MemoryZSwapMax", 253)];
    let started = server.bus(LONG).start_scope(&scope(wanted));
    let expected = Started {
        cgroup: "/user.slice/lodger-c.scope".to_owned(),
        version: 252,
        lacking: vec!["MemoryZSwapMax".to_owned()],
    };
    assert_eq!(started, Ok(expected));
}

#[test]
fn what_this_systemd_does_not_know_is_left_out_and_named() {
    let script: Script = Box::new(|stream, call, method| {
        if method != "StartTransientUnit" {
            return None;
        }
        let given = properties(call);
        for name in ["OOMPolicy", "IOWeight"] {
            if given.iter().any(|g| g == name) {
                let text = format!("Cannot set property {name}, or unknown property.");
                let error = "org.freedesktop.DBus.Error.PropertyReadOnly";
                return refuse(stream, call, error, &text);
            }
        }
        job(stream, call, 3);
        job_removed(stream, 3, "done");
        Some(())
    });
    // A version that says nothing: everything is tried.
    let server = systemd("main", script);
    let wanted = vec![
        property("IOWeight", 230),
        property("MemoryMax", 231),
        property("OOMPolicy", 253),
    ];
    let started = server.bus(LONG).start_scope(&scope(wanted)).unwrap();
    assert_eq!((started.version, started.lacking.len()), (0, 2));
}

#[test]
fn a_property_that_was_not_asked_for_is_not_left_out() {
    let script: Script = Box::new(|stream, call, method| {
        let error = "org.freedesktop.DBus.Error.PropertyReadOnly";
        let text = "Cannot set property PIDs, or unknown property.";
        (method == "StartTransientUnit").then(|| refuse(stream, call, error, text))?
    });
    let server = systemd("252", script);
    let error = server.bus(LONG).start_scope(&scope(Vec::new()));
    assert!(matches!(error, Err(BusError::Refused { .. })), "{error:?}");
}

/// A systemd that has the unit already, in this state, and forgets it once it is asked to; or somebody else is faster to take the
/// name again.
fn with_unit(state: &'static str, taken_again: bool) -> Server {
    let mut there = true;
    systemd(
        "v257",
        Box::new(move |stream, call, method| {
            match method {
                "StartTransientUnit" if there => {
                    let error = "org.freedesktop.systemd1.UnitExists";
                    return refuse(stream, call, error, "Unit was already loaded.");
                }
                "StartTransientUnit" => {
                    job(stream, call, 4);
                    job_removed(stream, 4, "done");
                }
                "Get" if call.header().path().unwrap().as_str().contains("/unit/") => {
                    reply(stream, call, &Variant::from(state));
                }
                "ResetFailedUnit" => {
                    there = taken_again;
                    reply(stream, call, &());
                }
                _ => return None,
            }
            Some(())
        }),
    )
}

#[test]
fn a_unit_that_has_ended_is_forgotten_and_one_that_runs_is_not() {
    for (state, starts) in [
        ("failed", true),
        ("inactive", true),
        ("active", false),
        ("deactivating", false),
    ] {
        let server = with_unit(state, false);
        let answer = server.bus(LONG).start_scope(&scope(Vec::new()));
        match answer {
            Ok(_) => assert!(starts, "{state}"),
            Err(error) => {
                let (unit, state_then) = (UNIT.to_owned(), state.to_owned());
                let expected = BusError::UnitExists {
                    unit,
                    state: state_then,
                };
                assert_eq!(error, expected);
                assert!(!starts, "{state}");
            }
        }
    }
}

#[test]
fn a_name_that_somebody_else_takes_meanwhile_is_taken() {
    let server = with_unit("inactive", true);
    let error = server.bus(LONG).start_scope(&scope(Vec::new()));
    assert!(
        matches!(error, Err(BusError::UnitExists { .. })),
        "{error:?}"
    );
}

#[test]
fn a_job_that_fails_is_an_error() {
    for result in ["failed", "canceled", "timeout", "dependency"] {
        let server = systemd(
            "252",
            Box::new(move |stream, call, method| {
                if method != "StartTransientUnit" {
                    return None;
                }
                job(stream, call, 5);
                job_removed(stream, 5, result);
                Some(())
            }),
        );
        let error = server
            .bus(LONG)
            .start_scope(&scope(Vec::new()))
            .unwrap_err();
        let error = Error::from(error).to_string();
        assert!(error.contains(result) && error.contains("hint:"), "{error}");
    }
}

/// By who meant the scope that had the name before.
#[test]
fn a_start_that_is_canceled_is_tried_once_more() {
    let mut times = 0;
    let server = systemd(
        "252",
        Box::new(move |stream, call, method| {
            if method != "StartTransientUnit" {
                return None;
            }
            times += 1;
            job(stream, call, times);
            job_removed(stream, times, if times == 1 { "canceled" } else { "done" });
            Some(())
        }),
    );
    let started = server.bus(LONG).start_scope(&scope(Vec::new()));
    assert!(started.is_ok(), "{started:?}");
}

#[test]
fn a_scope_that_is_not_there_is_stopped() {
    let script: Script = Box::new(|stream, call, method| {
        let error = "org.freedesktop.systemd1.NoSuchUnit";
        ["KillUnit", "StopUnit"]
            .contains(&method)
            .then(|| refuse(stream, call, error, "Unit not loaded."))?
    });
    assert_eq!(systemd("252", script).bus(LONG).stop_scope(UNIT), Ok(()));
}

#[test]
fn a_systemd_that_hangs_after_the_call_is_an_error() {
    let script: Script = Box::new(|_, _, method| (method == "StartTransientUnit").then_some(()));
    let server = systemd("252", script);
    let patience = Patience {
        job: SHORT.job,
        ..LONG
    };
    let error = server.bus(patience).start_scope(&scope(Vec::new()));
    let Err(BusError::Silent { what, .. }) = error else {
        panic!("{error:?}");
    };
    assert_eq!(what, "the scope's start");
}
