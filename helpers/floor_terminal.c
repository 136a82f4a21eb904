/* The terminal of `floor terminal`: made in the container's devpts, shown on the caller's. */
#define _GNU_SOURCE
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <termios.h>
#include <unistd.h>

#include "floor_root.h"

union one_descriptor {
    struct cmsghdr header;
    char space[CMSG_SPACE(sizeof(int))];
};

static struct msghdr message_for(union one_descriptor *control, struct iovec *data)
{
    return (struct msghdr){
        .msg_iov = data, .msg_iovlen = 1, .msg_control = control->space, .msg_controllen = sizeof control->space,
    };
}

void take_terminal(int line)
{
    int master = open("/dev/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC), unlocked = 0;
    if (master < 0 || ioctl(master, TIOCSPTLCK, &unlocked))
        err(1, "new terminal");
    int slave = ioctl(master, TIOCGPTPEER, O_RDWR | O_NOCTTY);
    if (slave < 0)
        err(1, "TIOCGPTPEER");
    if (setsid() < 0 || ioctl(slave, TIOCSCTTY, 0))
        err(1, "controlling terminal");
    union one_descriptor control = {.header = {0}};
    struct iovec data = {"", 1};
    struct msghdr message = message_for(&control, &data);
    control.header = (struct cmsghdr){.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof(int))};
    memcpy(CMSG_DATA(&control.header), &master, sizeof master);
    if (sendmsg(line, &message, 0) != 1)
        err(1, "send the terminal");
    for (int fd = 0; fd < 3; fd++)
        if (dup2(slave, fd) < 0)
            err(1, "dup2");
    if (slave > 2)
        close(slave);
}

static int receive_terminal(int line)
{
    union one_descriptor control;
    char byte;
    struct iovec data = {&byte, 1};
    struct msghdr message = message_for(&control, &data);
    int master;
    if (recvmsg(line, &message, MSG_CMSG_CLOEXEC) != 1 || message.msg_controllen < CMSG_LEN(sizeof(int)))
        errx(1, "init did not send its terminal");
    memcpy(&master, CMSG_DATA(&control.header), sizeof master);
    return master;
}

/* Copies what there is from one end to the other; 0 when nothing more can come. */
static int copy(int from, int to)
{
    char text[4096];
    ssize_t length = read(from, text, sizeof text);
    if (length > 0 && write(to, text, (size_t)length) != length)
        err(1, "write");
    return length > 0 || (length < 0 && errno == EINTR);
}

void show_terminal(int line)
{
    struct termios before, raw;
    struct winsize size;
    int master = receive_terminal(line);
    if (tcgetattr(0, &before) || ioctl(0, TIOCGWINSZ, &size) || ioctl(master, TIOCSWINSZ, &size))
        err(1, "the caller's terminal");
    raw = before;
    cfmakeraw(&raw);
    if (tcsetattr(0, TCSANOW, &raw))
        err(1, "tcsetattr");
    struct pollfd sources[] = {{.fd = master, .events = POLLIN}, {.fd = 0, .events = POLLIN}};
    for (;;) {
        if (poll(sources, 2, -1) < 0 && errno != EINTR)
            err(1, "poll");
        /* EIO: nobody in the container has the terminal open any more. */
        if (sources[0].revents && !copy(master, 1))
            break;
        if (sources[1].revents && !copy(0, master))
            sources[1].fd = -1;
    }
    if (tcsetattr(0, TCSANOW, &before))
        err(1, "tcsetattr");
}
