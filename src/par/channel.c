/* The side channel: a UDP socket per rank and the monitors' addresses. */
#include "par/channel.h"

#include <arpa/inet.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#include "par/room.h"

enum { BEAT_MAGIC = 0x746d7062, MAX_ADDRESSES = 4 };

/* Where a monitor listens; port 0 = nowhere. */
struct address {
    int32_t host, count;
    uint32_t ip[MAX_ADDRESSES]; /* network order */
    uint32_t port;              /* network order */
};

static struct {
    bool open;
    int fd, rank, size, host, monitors;
    uint64_t job;
    struct address monitor[CHANNEL_MONITORS];
} ch_;

int channel_fd(void) { return ch_.open ? ch_.fd : -1; }
int channel_monitors(void) { return ch_.monitors; }
int channel_monitor_rank(int k) { return (int)((int64_t)ch_.size * k / ch_.monitors); }

/* This host's IPv4 addresses but the loopback; a sender tries them all. */
static void own_addresses(struct address *a) {
    struct ifaddrs *list = NULL;
    if (getifaddrs(&list) != 0) return;
    for (const struct ifaddrs *i = list; i && a->count < MAX_ADDRESSES; i = i->ifa_next) {
        if (!i->ifa_addr || i->ifa_addr->sa_family != AF_INET) continue;
        if (!(i->ifa_flags & IFF_UP) || (i->ifa_flags & IFF_LOOPBACK)) continue;
        struct sockaddr_in in;
        memcpy(&in, i->ifa_addr, sizeof in);
        a->ip[a->count++] = in.sin_addr.s_addr;
    }
    freeifaddrs(list);
}

static void open_socket(struct address *mine) {
    struct sockaddr_in any = {.sin_family = AF_INET};
    socklen_t len = sizeof any;
    ch_.fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (ch_.fd < 0) return;
    any.sin_addr.s_addr = htonl(INADDR_ANY);
    if (bind(ch_.fd, (struct sockaddr *)&any, sizeof any) != 0 ||
        getsockname(ch_.fd, (struct sockaddr *)&any, &len) != 0) {
        close(ch_.fd);
        return;
    }
    ch_.open = true;
    mine->port = any.sin_port;
    own_addresses(mine);
}

enum status channel_exchange(struct par_group *world, int host) {
    if (group_alone(world)) return TM_OK;
    struct address mine = {.host = host};
    ch_.rank = world->rank;
    ch_.size = world->size;
    ch_.host = host;
    ch_.monitors = world->size < CHANNEL_MONITORS ? world->size : CHANNEL_MONITORS;
    open_socket(&mine);
    if (getrandom(&ch_.job, sizeof ch_.job, 0) != sizeof ch_.job) ch_.job = (uint64_t)getpid();
    TM_TRY(coll_bcast(world, &ch_.job, sizeof ch_.job, 0));
    for (int k = 0; k < ch_.monitors; k++) {
        int root = channel_monitor_rank(k);
        if (root == world->rank) ch_.monitor[k] = mine;
        TM_TRY(coll_bcast(world, &ch_.monitor[k], sizeof mine, root));
    }
    return TM_OK;
}

void channel_close(void) {
    if (ch_.open) close(ch_.fd);
    ch_.open = false;
    ch_.monitors = 0;
}

static void send_to(const struct beat *b, uint32_t ip, uint32_t port) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = (in_port_t)port};
    to.sin_addr.s_addr = ip;
    (void)sendto(ch_.fd, b, sizeof *b, MSG_DONTWAIT | MSG_NOSIGNAL, (struct sockaddr *)&to, sizeof to);
}

void channel_send(struct beat *b) {
    if (!ch_.open) return;
    b->magic = BEAT_MAGIC;
    b->job = ch_.job;
    b->rank = ch_.rank;
    for (int k = 0; k < ch_.monitors; k++) {
        const struct address *a = &ch_.monitor[k];
        if (a->port == 0 || channel_monitor_rank(k) == ch_.rank) continue;
        if (a->host == ch_.host) {
            send_to(b, htonl(INADDR_LOOPBACK), a->port);
        } else {
            for (int i = 0; i < a->count && i < MAX_ADDRESSES; i++) send_to(b, a->ip[i], a->port);
        }
    }
}

/* Anyone may send to a port: texts end, and show as one line of printable characters. */
static void clean(char *text, size_t n) {
    text[n - 1] = '\0';
    for (; *text; text++)
        if (*text < ' ' || *text > '~') *text = '?';
}

bool channel_receive(struct beat *out) {
    ssize_t n;
    if (!ch_.open) return false;
    while ((n = recv(ch_.fd, out, sizeof *out, MSG_DONTWAIT | MSG_TRUNC)) >= 0) {
        if (n != sizeof *out || out->magic != BEAT_MAGIC || out->job != ch_.job) continue;
        if (out->rank < 0 || out->rank >= ch_.size) continue;
        if (out->failed < 0 || out->failed > 255) continue;
        clean(out->stage, BEAT_TEXT);
        clean(out->operation, BEAT_TEXT);
        clean(out->waits_in, BEAT_TEXT);
        clean(out->host, BEAT_TEXT);
        clean(out->why, BEAT_WHY);
        return true;
    }
    return false;
}
