/* What floor.c needs of floor_root.c. Both end the process with a message when something fails. */
#pragma once

/* Mounts what `runc spec` mounts on rootfs, makes it the root, masks paths. single: no subordinate ids are mapped. */
void enter_root(const char *rootfs, int single);

/* The capabilities, limits and no_new_privs of `runc spec`. */
void drop_privileges(void);
