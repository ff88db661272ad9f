/*
 * Loads an iSCSI target by way of libiscsi, or the bare sendfile server of `bare-server.c`, from one
 * thread. `cargo xtask bench iscsi` builds and runs it. The last line says what came of it, as
 * `name=value` pairs; anything else goes to standard error, with exit code 1.
 *
 *   iscsi-load reads  SESSIONS DEPTH BLOCKS rand|seq SECONDS URL      (and for 20 reads in each place)
 *   iscsi-load logins SESSIONS URL
 *   iscsi-load idle   SESSIONS URL      (until standard input ends; `ready` once all are logged in)
 *   iscsi-load deaf   SESSIONS URL      (the same, with reads of 1 MiB that are never received)
 *   iscsi-load replay SESSIONS TRACE IMAGE URL [INITIATOR]
 *
 * `reads` and `replay` say `ready` once all are logged in, and begin when a line comes in, so that what
 * the server does from then on can be told from what the logins took.
 *
 * URL is iscsi://HOST:PORT/IQN/LUN, or bare://HOST:PORT. TRACE has lines `MICROSECONDS LBA BLOCKS`. Each
 * block of the disk must begin with its own number, little endian, but for `replay`, which compares
 * all bytes with IMAGE. INITIATOR, if given, names the last session's initiator, whose own time is told
 * apart from that of the others.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <iscsi/iscsi.h>
#include <iscsi/scsi-lowlevel.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define BLOCK 512
#define BARE_HEADER 48
#define REPLAY_DEPTH 32
/* Reads that each place of a queue must have had: with fewer, the queue is hardly ever full. */
#define LEAST_READS 20
/* Seconds after which a run ends all the same: the deepest cells would take a slow server minutes. */
#define LONGEST 20

static void fail(const char *format, ...)
{
	va_list args;
	va_start(args, format);
	fprintf(stderr, "iscsi-load: ");
	vfprintf(stderr, format, args);
	fputc('\n', stderr);
	va_end(args);
	exit(1);
}

static double now(void)
{
	struct timespec time;
	clock_gettime(CLOCK_MONOTONIC, &time);
	return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

static void *need(void *memory)
{
	if (!memory)
		fail("out of memory");
	return memory;
}

/* Times, in buckets of 3 % of their size. */
#define MANTISSA 5
static uint64_t buckets[64 << MANTISSA];
static uint64_t counted;

static void count(double seconds)
{
	uint64_t ns = seconds > 0 ? (uint64_t)(seconds * 1e9) : 0;
	unsigned bits = 63 - (unsigned)__builtin_clzll(ns | (1 << MANTISSA));
	unsigned shift = bits - MANTISSA;
	buckets[((uint64_t)shift << MANTISSA) + (ns >> shift)]++;
	counted++;
}

static double quantile_us(double share)
{
	uint64_t wanted = (uint64_t)((double)counted * share), seen = 0;
	for (uint64_t at = 0; at < sizeof buckets / sizeof *buckets; at++) {
		seen += buckets[at];
		if (seen > wanted) {
			uint64_t shift = at >> MANTISSA, rest = at & ((1 << MANTISSA) - 1);
			if (shift == 0)
				return (double)at / 1e3;
			/* The first of a power's buckets has the leading bit that the index lacks. */
			shift -= 1;
			return (double)((rest + (1 << MANTISSA)) << shift) / 1e3;
		}
	}
	return 0;
}

struct read {
	uint64_t at_us, lba;
	uint32_t blocks;
};

struct session;

/* One read that is under way, and the memory it goes to. */
struct slot {
	struct session *session;
	uint8_t *memory;
	size_t size;
	struct scsi_iovec iov;
	uint64_t lba;
	uint32_t blocks;
	double begun;
	int busy;
	/* Of the bare server's answers, which come in order: what is still to come. */
	size_t header_left, data_left;
};

struct session {
	struct iscsi_context *iscsi;
	int lun;
	/* The bare server's socket, and the slots it owes answers to, oldest first. */
	int socket;
	struct slot **queue;
	unsigned first, queued;
	/* Requests that the socket has not taken yet. */
	uint8_t out[REPLAY_DEPTH * 16];
	size_t out_len;

	struct slot *slots;
	unsigned depth, under_way;
	uint64_t cursor, seed;
	/* Replay: the next read of the trace and when it is due. */
	unsigned next;
	double due, ended;
	double begun;
	int logged_in;
};

static struct {
	const char *url, *host;
	int port, bare, lun;
	char portal[256], target[256];
	unsigned sessions, depth;
	uint32_t blocks;
	int random;
	double until;
	uint64_t disk_blocks;
	struct read *trace;
	unsigned trace_len;
	const uint8_t *image;
	uint64_t image_len;
} load;

static uint64_t done_reads, done_bytes;
static unsigned open_sessions;

static void issue(struct session *session);

static void finished(struct slot *slot)
{
	struct session *session = slot->session;
	uint64_t bytes = (uint64_t)slot->blocks * BLOCK;
	count(now() - slot->begun);
	if (load.image) {
		if (memcmp(slot->memory, load.image + slot->lba * BLOCK, bytes))
			fail("wrong data at block %" PRIu64, slot->lba);
	} else {
		for (uint32_t block = 0; block < slot->blocks; block++) {
			uint64_t number;
			memcpy(&number, slot->memory + (size_t)block * BLOCK, sizeof number);
			if (number != slot->lba + block)
				fail("wrong data at block %" PRIu64, slot->lba + block);
		}
	}
	done_reads++;
	done_bytes += bytes;
	slot->busy = 0;
	session->under_way--;
	if (load.trace && session->next == load.trace_len && session->under_way == 0) {
		session->ended = now();
		open_sessions--;
	}
	issue(session);
}

static void on_read(struct iscsi_context *iscsi, int status, void *command, void *private)
{
	struct scsi_task *task = command;
	if (status != SCSI_STATUS_GOOD)
		fail("a read failed: %s", iscsi_get_error(iscsi));
	if (task->residual_status != SCSI_RESIDUAL_NO_RESIDUAL)
		fail("a read came short");
	scsi_free_scsi_task(task);
	finished(private);
}

static void ask(struct slot *slot, uint64_t lba, uint32_t blocks)
{
	struct session *session = slot->session;
	size_t bytes = (size_t)blocks * BLOCK;
	if (bytes > slot->size) {
		free(slot->memory);
		slot->memory = need(malloc(bytes));
		slot->size = bytes;
	}
	slot->lba = lba;
	slot->blocks = blocks;
	slot->begun = now();
	slot->busy = 1;
	session->under_way++;
	if (load.bare) {
		uint64_t request[2] = { lba * BLOCK, bytes };
		memcpy(session->out + session->out_len, request, sizeof request);
		session->out_len += sizeof request;
		slot->header_left = BARE_HEADER;
		slot->data_left = bytes;
		session->queue[(session->first + session->queued++) % session->depth] = slot;
		return;
	}
	slot->iov.iov_base = slot->memory;
	slot->iov.iov_len = bytes;
	if (!iscsi_read16_iov_task(session->iscsi, session->lun, lba, (uint32_t)bytes, BLOCK, 0, 0, 0,
				   0, 0, on_read, slot, &slot->iov, 1))
		fail("a read cannot be sent: %s", iscsi_get_error(session->iscsi));
}

static struct slot *free_slot(struct session *session)
{
	for (unsigned at = 0; at < session->depth; at++)
		if (!session->slots[at].busy)
			return &session->slots[at];
	return NULL;
}

/* Sends what is due. */
static void issue(struct session *session)
{
	double time = now();
	struct slot *slot;
	if (load.trace) {
		while (session->next < load.trace_len && session->due <= time &&
		       (slot = free_slot(session))) {
			struct read *read = &load.trace[session->next++];
			ask(slot, read->lba, read->blocks);
			/* The gaps are kept, whatever delay came before. */
			if (session->next < load.trace_len)
				session->due = time + (double)(read[1].at_us - read->at_us) * 1e-6;
		}
		return;
	}
	if (time >= load.until)
		return;
	while ((slot = free_slot(session))) {
		uint64_t places = load.disk_blocks / load.blocks;
		uint64_t place = session->cursor++ % places;
		if (load.random) {
			session->seed ^= session->seed << 13;
			session->seed ^= session->seed >> 7;
			session->seed ^= session->seed << 17;
			place = session->seed % places;
		}
		ask(slot, place * load.blocks, load.blocks);
	}
}

static void on_login(struct iscsi_context *iscsi, int status, void *command, void *private)
{
	struct session *session = private;
	(void)command;
	if (status != SCSI_STATUS_GOOD)
		fail("a login failed: %s", iscsi_get_error(iscsi));
	session->logged_in = 1;
	session->ended = now();
	count(session->ended - session->begun);
	open_sessions--;
}

static void connect_bare(struct session *session)
{
	struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons((uint16_t)load.port) };
	int one = 1;
	inet_pton(AF_INET, load.host, &address.sin_addr);
	session->socket = socket(AF_INET, SOCK_STREAM, 0);
	if (session->socket < 0 || connect(session->socket, (void *)&address, sizeof address))
		fail("cannot connect to %s: %s", load.url, strerror(errno));
	setsockopt(session->socket, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
	fcntl(session->socket, F_SETFL, O_NONBLOCK);
	session->logged_in = 1;
	open_sessions--;
}

static void begin(struct session *session, unsigned number, const char *initiator)
{
	char name[128];
	session->begun = now();
	if (load.bare) {
		connect_bare(session);
		return;
	}
	snprintf(name, sizeof name, "iqn.2026-11.org.haas.load:client%u", number);
	session->iscsi = iscsi_create_context(initiator ? initiator : name);
	if (!session->iscsi)
		fail("no context");
	session->lun = load.lun;
	iscsi_set_targetname(session->iscsi, load.target);
	iscsi_set_session_type(session->iscsi, ISCSI_SESSION_NORMAL);
	iscsi_set_header_digest(session->iscsi, ISCSI_HEADER_DIGEST_NONE);
	iscsi_set_noautoreconnect(session->iscsi, 1);
	if (iscsi_full_connect_async(session->iscsi, load.portal, load.lun, on_login, session))
		fail("cannot connect: %s", iscsi_get_error(session->iscsi));
}

static void serve_bare(struct session *session, short events)
{
	if (session->out_len) {
		ssize_t sent = send(session->socket, session->out, session->out_len, MSG_NOSIGNAL);
		if (sent > 0) {
			session->out_len -= (size_t)sent;
			memmove(session->out, session->out + sent, session->out_len);
		} else if (errno != EAGAIN) {
			fail("the bare server is gone");
		}
	}
	while ((events & POLLIN) && session->queued) {
		struct slot *slot = session->queue[session->first];
		uint8_t header[BARE_HEADER];
		size_t bytes = (size_t)slot->blocks * BLOCK;
		uint8_t *to = slot->header_left ? header : slot->memory + bytes - slot->data_left;
		size_t left = slot->header_left ? slot->header_left : slot->data_left;
		ssize_t got = recv(session->socket, to, left, 0);
		if (got == 0 || (got < 0 && errno != EAGAIN))
			fail("the bare server is gone");
		if (got < 0)
			return;
		if (slot->header_left) {
			slot->header_left -= (size_t)got;
		} else if ((slot->data_left -= (size_t)got) == 0) {
			session->first = (session->first + 1) % session->depth;
			session->queued--;
			finished(slot);
		}
	}
}

/* One look at all sockets, waiting for at most so many seconds. `deaf` sessions receive nothing. */
static void turn(struct session *sessions, double wait, int deaf)
{
	static struct pollfd *fds;
	if (!fds)
		fds = need(calloc(load.sessions, sizeof *fds));
	for (unsigned at = 0; at < load.sessions; at++) {
		struct session *session = &sessions[at];
		int events = load.bare ? POLLIN | (session->out_len ? POLLOUT : 0) :
					 iscsi_which_events(session->iscsi);
		if (deaf && session->logged_in)
			events &= POLLOUT;
		fds[at].fd = load.bare ? session->socket : iscsi_get_fd(session->iscsi);
		fds[at].events = (short)events;
	}
	struct timespec time = { (time_t)wait, (long)((wait - (double)(time_t)wait) * 1e9) };
	if (ppoll(fds, load.sessions, &time, NULL) < 0)
		fail("poll: %s", strerror(errno));
	for (unsigned at = 0; at < load.sessions; at++) {
		struct session *session = &sessions[at];
		if (!fds[at].revents)
			continue;
		if (load.bare)
			serve_bare(session, fds[at].revents);
		else if (iscsi_service(session->iscsi, fds[at].revents) < 0)
			fail("a session was lost: %s", iscsi_get_error(session->iscsi));
	}
}

static struct session *log_in(unsigned depth, const char *last)
{
	struct session *sessions = need(calloc(load.sessions, sizeof *sessions));
	open_sessions = load.sessions;
	for (unsigned at = 0; at < load.sessions; at++) {
		struct session *session = &sessions[at];
		session->depth = depth;
		session->slots = need(calloc(depth, sizeof *session->slots));
		session->queue = need(calloc(depth, sizeof *session->queue));
		for (unsigned slot = 0; slot < depth; slot++)
			session->slots[slot].session = session;
		session->seed = 0x9e3779b97f4a7c15u * (at + 1);
		begin(session, at, at + 1 == load.sessions ? last : NULL);
	}
	while (open_sessions)
		turn(sessions, 1, 0);
	return sessions;
}

static void forget_times(void)
{
	memset(buckets, 0, sizeof buckets);
	counted = 0;
}

static void learn_size(struct session *session)
{
	if (load.bare) {
		const char *size = getenv("DISK_BLOCKS");
		load.disk_blocks = size ? strtoull(size, NULL, 10) : 0;
	} else {
		struct scsi_task *task = iscsi_readcapacity16_sync(session->iscsi, load.lun);
		struct scsi_readcapacity16 *capacity = task ? scsi_datain_unmarshall(task) : NULL;
		if (!capacity)
			fail("no capacity");
		load.disk_blocks = capacity->returned_lba + 1;
		scsi_free_scsi_task(task);
	}
	if (load.disk_blocks < load.blocks)
		fail("the disk is too small");
}

static void read_trace(const char *path)
{
	FILE *file = fopen(path, "r");
	unsigned room = 0;
	struct read read;
	if (!file)
		fail("cannot open %s: %s", path, strerror(errno));
	while (fscanf(file, "%" SCNu64 " %" SCNu64 " %" SCNu32, &read.at_us, &read.lba, &read.blocks) == 3) {
		if (load.trace_len == room) {
			room = room ? room * 2 : 1024;
			load.trace = need(realloc(load.trace, room * sizeof read));
		}
		load.trace[load.trace_len++] = read;
	}
	fclose(file);
	if (!load.trace_len)
		fail("%s has no reads", path);
}

static void map_image(const char *path)
{
	struct stat stat;
	int file = open(path, O_RDONLY);
	if (file < 0 || fstat(file, &stat))
		fail("cannot open %s: %s", path, strerror(errno));
	load.image_len = (uint64_t)stat.st_size;
	load.image = mmap(NULL, load.image_len, PROT_READ, MAP_SHARED, file, 0);
	if (load.image == MAP_FAILED)
		fail("cannot map %s: %s", path, strerror(errno));
}

static void parse_url(const char *url)
{
	load.url = url;
	if (!strncmp(url, "bare://", 7)) {
		static char host[64];
		if (sscanf(url + 7, "%63[^:]:%d", host, &load.port) != 2)
			fail("%s is no address", url);
		load.host = host;
		load.bare = 1;
		return;
	}
	if (sscanf(url, "iscsi://%255[^/]/%255[^/]/%d", load.portal, load.target, &load.lun) != 3)
		fail("%s is no URL", url);
}

static unsigned number(const char *text)
{
	char *end;
	unsigned long value = strtoul(text, &end, 10);
	if (*end || value == 0 || value > 1000000)
		fail("%s is no number", text);
	return (unsigned)value;
}

static void say(double seconds)
{
	printf("reads=%" PRIu64 " bytes=%" PRIu64 " seconds=%.6f p50_us=%.1f p99_us=%.1f p999_us=%.1f\n",
	       done_reads, done_bytes, seconds, quantile_us(0.5), quantile_us(0.99), quantile_us(0.999));
}

static void say_ready(void)
{
	printf("ready\n");
	fflush(stdout);
}

static void await_start(void)
{
	char line[16];
	say_ready();
	if (!fgets(line, sizeof line, stdin))
		fail("nobody says when to begin");
}

static void run_reads(char **argv)
{
	load.depth = number(argv[1]);
	load.blocks = number(argv[2]);
	load.random = !strcmp(argv[3], "rand");
	double seconds = strtod(argv[4], NULL);
	parse_url(argv[5]);
	if (load.bare && load.depth > REPLAY_DEPTH)
		fail("at most %d reads under way", REPLAY_DEPTH);
	struct session *sessions = log_in(load.depth, NULL);
	learn_size(sessions);
	await_start();
	forget_times();
	double begun = now();
	uint64_t least = (uint64_t)LEAST_READS * load.sessions * load.depth;
	load.until = begun + 3600;
	for (unsigned at = 0; at < load.sessions; at++) {
		/* Sequential sessions begin at places of their own. */
		sessions[at].cursor = load.disk_blocks / load.blocks * at / load.sessions;
		issue(&sessions[at]);
	}
	while (now() < begun + seconds || (done_reads < least && now() < begun + LONGEST))
		turn(sessions, 0.1, 0);
	say(now() - begun);
	/* The rest is not waited for: what was counted is counted. */
	_exit(fflush(stdout) ? 1 : 0);
}

static void run_logins(char **argv)
{
	parse_url(argv[1]);
	double begun = now();
	log_in(1, NULL);
	say(now() - begun);
}

static void run_held(char **argv, int deaf)
{
	parse_url(argv[1]);
	struct session *sessions = log_in(deaf ? REPLAY_DEPTH : 1, NULL);
	if (deaf) {
		load.blocks = 2048;
		load.until = now() + 3600;
		learn_size(sessions);
		for (unsigned at = 0; at < load.sessions; at++)
			issue(&sessions[at]);
	}
	say_ready();
	struct pollfd input = { .fd = 0, .events = POLLIN };
	while (poll(&input, 1, 0) == 0)
		turn(sessions, 0.05, deaf);
}

static void run_replay(int argc, char **argv)
{
	read_trace(argv[1]);
	map_image(argv[2]);
	parse_url(argv[3]);
	const char *last = argc > 4 ? argv[4] : NULL;
	for (unsigned at = 0; at < load.trace_len; at++)
		if ((load.trace[at].lba + load.trace[at].blocks) * BLOCK > load.image_len)
			fail("the trace reads beyond the image");
	struct session *sessions = log_in(REPLAY_DEPTH, last);
	await_start();
	forget_times();
	double begun = now();
	open_sessions = load.sessions;
	for (unsigned at = 0; at < load.sessions; at++) {
		sessions[at].due = begun;
		issue(&sessions[at]);
	}
	while (open_sessions) {
		double next = now() + 0.1;
		for (unsigned at = 0; at < load.sessions; at++) {
			struct session *session = &sessions[at];
			if (session->next < load.trace_len && session->under_way < session->depth) {
				issue(session);
				if (session->next < load.trace_len && session->due < next)
					next = session->due;
			}
		}
		double wait = next - now();
		turn(sessions, wait > 0 ? wait : 0, 0);
	}
	double slowest = 0, of_last = 0;
	for (unsigned at = 0; at < load.sessions; at++) {
		double took = sessions[at].ended - begun;
		if (at + 1 == load.sessions && last)
			of_last = took;
		else if (took > slowest)
			slowest = took;
	}
	printf("slowest_s=%.6f last_s=%.6f ", slowest, of_last);
	say(now() - begun);
}

int main(int argc, char **argv)
{
	struct rlimit files;
	if (!getrlimit(RLIMIT_NOFILE, &files)) {
		files.rlim_cur = files.rlim_max;
		setrlimit(RLIMIT_NOFILE, &files);
	}
	if (argc < 4)
		fail("what? See the comment in the source.");
	load.sessions = number(argv[2]);
	if (!strcmp(argv[1], "reads") && argc == 8)
		run_reads(argv + 2);
	else if (!strcmp(argv[1], "logins"))
		run_logins(argv + 2);
	else if (!strcmp(argv[1], "idle"))
		run_held(argv + 2, 0);
	else if (!strcmp(argv[1], "deaf"))
		run_held(argv + 2, 1);
	else if (!strcmp(argv[1], "replay") && argc >= 6)
		run_replay(argc - 2, argv + 2);
	else
		fail("what? See the comment in the source.");
	return 0;
}
