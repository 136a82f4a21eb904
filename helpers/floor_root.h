/* What floor.c needs of floor_root.c and floor_terminal.c. They end the process with a message when something fails. */
#pragma once

/* Mounts what `runc spec` mounts on rootfs, makes it the root, masks paths. single: no subordinate ids are mapped. */
void enter_root(const char *rootfs, int single);

/* The capabilities, limits and no_new_privs of `runc spec`. */
void drop_privileges(void);

/* floor_terminal.c: in the container, make a terminal, send it over the line and stand on it. */
void take_terminal(int line);

/* In the parent: show that terminal on descriptors 0 and 1, until nobody has it open. */
void show_terminal(int line);
