// A control server for real Tailscale clients whose DERP map is changed while it runs: Tailscale's own for its integration tests.
//
// It prints its address, then reads one DERPMap a line (as Tailscale's JSON) and says "ok" once all clients are being told of it.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"

	"tailscale.com/tailcfg"
	"tailscale.com/tstest/integration/testcontrol"
)

func main() {
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 1<<20)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	address := "http://" + listener.Addr().String()
	control := &testcontrol.Server{ExplicitBaseURL: address, DERPMap: read(lines), Logf: log.Printf}
	go http.Serve(listener, control)
	fmt.Println(address)
	for next := read(lines); next != nil; next = read(lines) {
		control.DERPMap = next
		// Every client that waits for news is sent the whole map anew.
		control.SetExpireAllNodes(false)
		fmt.Println("ok")
	}
}

// read returns the next map; nil at the end.
func read(lines *bufio.Scanner) *tailcfg.DERPMap {
	if !lines.Scan() {
		return nil
	}
	next := new(tailcfg.DERPMap)
	if err := json.Unmarshal(lines.Bytes(), next); err != nil {
		log.Fatal(err)
	}
	return next
}
