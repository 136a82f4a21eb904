# The view of tests/run that has Debian's own kernel. Source it; it runs nothing by itself.
# shellcheck shell=bash

# Of the tests that run under the machine's kernel: some of each kind, as each takes seconds there.
debian_chosen=(
    exec::it_runs_in_the_namespaces_of_the_container
    exec::it_gives_the_exit_code
    exec::it_has_the_limits_and_capabilities_of_the_config
    exec::signals_are_forwarded
    lifecycle::run_forwards_signals_to_the_payload
    lifecycle::create_start_kill_delete
    lifecycle::delete_force_kills
    overlay::changes_go_to_the_upper_directory_and_nowhere_else
    overlay::by_path_it_is_the_same_overlay
    overlay::what_a_user_namespace_needs_is_added
    image_run::the_image_says_what_runs_and_the_options_have_the_last_word
    image_run::directories_of_the_host_are_bound_and_volumes_stay_writable
    copy_up::files_directories_and_links_are_copied
    mounts::an_attribute_of_the_tree_is_one_of_every_mount_in_it
    mounts::filesystems_that_a_user_namespace_may_mount
    terminal::the_program_has_a_terminal_of_the_containers_own
    terminal::exec_has_a_terminal_of_its_own
    checkpoint_life::a_container_that_is_left_running_goes_on_and_its_image_runs_beside_it
    checkpoint_life::every_command_works_on_a_restored_container
    checkpoint_life::a_restore_in_the_foreground_ends_with_its_program
    checkpoint_life::mounts_from_outside_are_there_again
)

# run_debian FILE: those, and all of the modules debian_…, which run nowhere else.
run_debian() {
    local all name names=() why=
    [[ $under_test == lodger ]] || return 0
    mapfile -t all < <(as_user "$1" --list --format terse 2>/dev/null | sed -n 's/: test$//p')
    for name in "${debian_chosen[@]}"; do
        if [[ " ${all[*]} " != *" $name "* ]]; then
            say "FAILED: there is no test $name to run under Debian's own kernel"
            failed=$((failed + 1))
        elif [[ debian_kernel::$name == *"$filter"* ]]; then
            names+=("$name")
        fi
    done
    for name in "${all[@]}"; do
        [[ $name != debian_* || $name != *"$filter"* ]] || names+=("$name")
    done
    ((${#names[@]})) || return 0
    command -v qemu-system-x86_64 >/dev/null && guest_of image && guest_of debian ||
        why="no machine with Debian's own kernel is to be had here"
    if [[ -n $why ]]; then
        say "SKIP: $why: ${names[*]}"
        skipped=$((skipped + ${#names[@]}))
        return
    fi
    at_once run_executable debian_kernel with_debian "$1" --exact "${names[@]}"
}

# with_debian as_user NAME=VALUE… COMMAND…: as her on a machine with Debian's own kernel, which is that much slower.
with_debian() {
    local directory shares=()
    for directory in "$setup_work"/{bin,source} ${criu:+"${criu%/*}"} ${old_criu:+"${old_criu%/*}"} ${images:+"$images"}; do
        shares+=(--share "$directory")
    done
    tests/guest/debian --limit 2300 "${shares[@]}" -- env LODGER_TEST_PATIENCE=4 "${@:2}"
}
