#!/bin/sh
# tailscale.com v1.102.5: the connections that `tailscale debug derp` makes are closed by nobody.
#
# ipn/localapi/debugderp.go makes five derphttp clients with one throw-away key, one after the other, connects them, and drops them
# without Close(). This does the same against a DERP server of the same module. Seen: all five are there for as long as no garbage is
# collected (in an idle process up to the Go runtime's two minutes: 121 s measured; 31 to 50 s in a busy tailscaled), and none after a
# collection. So a relay sees such a key for up to two minutes, connected like a device.
#
# Needs Go 1.26 and the Go module proxy. Fails when the connections are closed at once, or stay after a collection.
set -eu
folder=$(mktemp -d)
trap 'chmod -R u+w "$folder"; rm -rf "$folder"' EXIT
cd "$folder"
cat > main.go <<'GO'
package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"runtime"
	"runtime/debug"
	"strconv"
	"time"

	"tailscale.com/derp/derphttp"
	"tailscale.com/derp/derpserver"
	"tailscale.com/net/netmon"
	"tailscale.com/tailcfg"
	"tailscale.com/types/key"
)

var gauge = regexp.MustCompile(`"gauge_current_connections": *([0-9]+)`)

func quiet(string, ...any) {}

func main() {
	relay := derpserver.New(key.NewNode(), quiet)
	server := httptest.NewUnstartedServer(derpserver.Handler(relay))
	server.Config.TLSNextProto = map[string]func(*http.Server, *tls.Conn, http.Handler){}
	server.StartTLS()
	_, text, _ := net.SplitHostPort(server.Listener.Addr().String())
	port, _ := strconv.Atoi(text)
	connected := func() string { return gauge.FindStringSubmatch(relay.ExpVar(false).String())[1] }

	// Collected only when it is said below.
	debug.SetGCPercent(-1)
	throwAway := key.NewNode()
	for range 5 {
		client := derphttp.NewRegionClient(throwAway, quiet, netmon.NewStatic(), func() *tailcfg.DERPRegion {
			return &tailcfg.DERPRegion{RegionID: 900, Nodes: []*tailcfg.DERPNode{{
				Name: "900a", RegionID: 900, HostName: "127.0.0.1", IPv4: "127.0.0.1", IPv6: "none",
				DERPPort: port, InsecureForTests: true,
			}}}
		})
		if err := client.Connect(context.Background()); err != nil {
			fmt.Println("cannot connect:", err)
			os.Exit(1)
		}
	}
	time.Sleep(15 * time.Second)
	before := connected()
	for range 3 {
		runtime.GC()
		time.Sleep(2 * time.Second)
	}
	after := connected()
	fmt.Printf("connections 15 s after the last one was dropped: %s; after a garbage collection: %s\n", before, after)
	if before != "5" || after != "0" {
		os.Exit(1)
	}
}
GO
go mod init finding > init.txt 2>&1
go get tailscale.com@v1.102.5 > get.txt 2>&1 || { cat get.txt; exit 1; }
go mod tidy > tidy.txt 2>&1 || { cat tidy.txt; exit 1; }
go run .
