// The third of four services, in Go: calls the next one and signs the answer.
//
//	go run go_service.go PORT [NEXT_URL]
//
// All that it does for tracing is to send on the fields of the request that speak of the trace.
package main

import (
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"strings"
	"time"
)

const name = "go"

var carried = []string{"x-b3-", "b3", "traceparent", "tracestate", "l5d-ctx-", "l5d-reqid"}

// The next hop is reached directly, whatever proxy the environment names.
var client = http.Client{Transport: &http.Transport{}, Timeout: 10 * time.Second}

func isCarried(field string) bool {
	for _, one := range carried {
		if field == one || strings.HasSuffix(one, "-") && strings.HasPrefix(field, one) {
			return true
		}
	}
	return false
}

func call(url string, fields http.Header) (int, string) {
	request, err := http.NewRequest("GET", url, nil)
	if err != nil {
		return 502, fmt.Sprintf("%s: %v", name, err)
	}
	for field, values := range fields {
		if isCarried(strings.ToLower(field)) {
			request.Header[field] = values
		}
	}
	answer, err := client.Do(request)
	if err != nil {
		return 502, fmt.Sprintf("%s: %v", name, err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	switch {
	case err != nil:
		return 502, fmt.Sprintf("%s: %v", name, err)
	case answer.StatusCode != 200:
		return 502, fmt.Sprintf("%s: %d: %s", name, answer.StatusCode, text)
	}
	return 200, fmt.Sprintf("%s > %s", name, text)
}

func main() {
	next := strings.Join(os.Args[2:], "")
	listener, err := net.Listen("tcp", "127.0.0.1:"+os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("listening", listener.Addr().(*net.TCPAddr).Port)
	serve := func(out http.ResponseWriter, request *http.Request) {
		status, text := 200, name
		if next != "" {
			status, text = call(next+request.URL.RequestURI(), request.Header)
		}
		out.Header().Set("Content-Type", "text/plain")
		out.WriteHeader(status)
		io.WriteString(out, text)
	}
	log.Fatal(http.Serve(listener, http.HandlerFunc(serve)))
}
