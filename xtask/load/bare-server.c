/*
 * What a server spends at the least to send ranges of a file: for each request of 16 bytes (offset and
 * length, both 64 bits of the machine's order) a header of 48 bytes and sendfile(2), one thread for each
 * connection, no protocol. The yardstick of `cargo xtask bench iscsi`.
 *
 *   bare-server FILE      (prints its port, serves until it is killed)
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <unistd.h>

static int file;

static void *serve(void *argument)
{
	int socket = (int)(intptr_t)argument;
	uint64_t request[2];
	char header[48] = { 0 };
	while (recv(socket, request, sizeof request, MSG_WAITALL) == sizeof request) {
		off_t at = (off_t)request[0];
		size_t left = request[1];
		if (send(socket, header, sizeof header, MSG_MORE | MSG_NOSIGNAL) != sizeof header)
			break;
		while (left) {
			ssize_t sent = sendfile(socket, file, &at, left);
			if (sent <= 0)
				goto over;
			left -= (size_t)sent;
		}
	}
over:
	close(socket);
	return NULL;
}

int main(int argc, char **argv)
{
	struct sockaddr_in address = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t length = sizeof address;
	/* sendfile(2) has no MSG_NOSIGNAL. */
	signal(SIGPIPE, SIG_IGN);
	int listener = socket(AF_INET, SOCK_STREAM, 0);
	if (argc != 2 || (file = open(argv[1], O_RDONLY)) < 0 || listener < 0 ||
	    bind(listener, (void *)&address, length) || listen(listener, 4096) ||
	    getsockname(listener, (void *)&address, &length)) {
		perror("bare-server");
		return 1;
	}
	printf("%d\n", ntohs(address.sin_port));
	fflush(stdout);
	for (;;) {
		int one = 1, client = accept(listener, NULL, NULL);
		pthread_attr_t small;
		pthread_t thread;
		if (client < 0)
			continue;
		setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
		pthread_attr_init(&small);
		pthread_attr_setstacksize(&small, 64 << 10);
		pthread_attr_setdetachstate(&small, PTHREAD_CREATE_DETACHED);
		if (pthread_create(&thread, &small, serve, (void *)(intptr_t)client))
			close(client);
		pthread_attr_destroy(&small);
	}
}
