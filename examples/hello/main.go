package main

import (
	"fmt"
	"log"
	"net/http"
	"time"

	"github.com/gatemesh-go/gatemesh"
	"github.com/gatemesh-go/gatemesh/auth"
	"github.com/gatemesh-go/gatemesh/ratelimit"
)

func main() {
	keys := gatemesh.Must(auth.LoadKeyFile("keys.txt"))
	who := gatemesh.Must(auth.New(auth.Config{APIKeys: keys}))
	limit := gatemesh.Must(ratelimit.New(ratelimit.Config{
		Name: "consumer", Key: ratelimit.ByConsumer(), Limit: ratelimit.Limit{Requests: 1000, Per: time.Minute},
	}))
	entry := gatemesh.Must(gatemesh.NewEntry(gatemesh.EntryConfig{}))
	chain := gatemesh.Must(gatemesh.NewChain(entry, who.Layer(), limit.Layer()))
	log.Fatal(http.ListenAndServe("127.0.0.1:8080", chain.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintln(w, "hello,", gatemesh.FromContext(r.Context()).Principal().Consumer())
	}))))
}
