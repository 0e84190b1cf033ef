// Package nft has the kernel's nftables drop what banned sources send to our ports.
//
// The idea: a table of our own, spoken to by netlink, with one set of IPv4 addresses and one of IPv6 /64s whose elements
// end by themselves. A packet to one of our ports whose source is in a set is dropped before connection tracking and
// sockets see it; packets to other ports are let through after a look at the port. Nobody else's rules are touched.
//
//	table inet sipward {
//		set banned4 { type ipv4_addr; flags timeout; }
//		set banned6 { type ipv6_addr; flags timeout; }
//		chain arrival {
//			type filter hook prerouting priority raw; policy accept;
//			meta nfproto ipv4 meta l4proto udp ip daddr 192.0.2.1 udp dport 5060 goto source
//			...
//		}
//		chain source {
//			meta nfproto ipv4 ip saddr @banned4 counter drop
//			meta nfproto ipv6 ip6 saddr & ffff:ffff:ffff:ffff:: @banned6 counter drop
//		}
//	}
//
// Rules:
//
//   - It is an accelerator: whoever uses it enforces bans himself as well, so nothing here has to succeed. Ports that
//     somebody translates on this host (REDIRECT) are matched as they were before.
//   - Each call is one or more transactions of at most 1000 elements. There is no goroutine and no open socket in between.
//   - The table of a process that died stays until the next Open of that name replaces it; its bans end in time.
//
// It needs Linux and CAP_NET_ADMIN.
package nft
