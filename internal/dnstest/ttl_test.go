package dnstest

import (
	"net"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/dns/dnsmessage"
)

// ttlOf asks s over UDP, as package net does not tell.
func ttlOf(t *testing.T, s *Server, name string) uint32 {
	t.Helper()
	q := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: 7, RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName(name), Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}},
	}
	out, err := q.Pack()
	require.NoError(t, err)
	c, err := net.Dial("udp", s.Addr())
	require.NoError(t, err)
	defer c.Close()
	_, err = c.Write(out)
	require.NoError(t, err)
	buf := make([]byte, 512)
	n, err := c.Read(buf)
	require.NoError(t, err)
	var m dnsmessage.Message
	require.NoError(t, m.Unpack(buf[:n]))
	require.Len(t, m.Answers, 1)
	require.Equal(t, uint16(7), m.ID)
	return m.Answers[0].Header.TTL
}
