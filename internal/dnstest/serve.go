package dnstest

import (
	"encoding/binary"
	"io"
	"net"
)

func (s *Server) serveUDP() {
	buf := make([]byte, 1<<16)
	for {
		n, from, err := s.udp.ReadFrom(buf)
		if err != nil { // closed
			return
		}
		if out := s.answer(buf[:n], 0); out != nil {
			_, _ = s.udp.WriteTo(out, from) // who asked may be gone
		}
	}
}

func (s *Server) serveTCP() {
	for {
		c, err := s.tcp.Accept()
		if err != nil { // closed
			return
		}
		s.mu.Lock()
		if s.closed {
			_ = c.Close() // it came too late
		} else {
			s.conns[c] = struct{}{}
			s.done.Go(func() { s.serveConn(c) })
		}
		s.mu.Unlock()
	}
}

// serveConn answers queries with a length before each (RFC 1035 §4.2.2).
func (s *Server) serveConn(c net.Conn) {
	defer func() {
		_ = c.Close()
		s.mu.Lock()
		delete(s.conns, c)
		s.mu.Unlock()
	}()
	for {
		var size [2]byte
		if _, err := io.ReadFull(c, size[:]); err != nil {
			return
		}
		query := make([]byte, binary.BigEndian.Uint16(size[:]))
		if _, err := io.ReadFull(c, query); err != nil {
			return
		}
		out := s.answer(query, 1<<16-1)
		if out == nil {
			continue
		}
		if _, err := c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(out))), out...)); err != nil {
			return
		}
	}
}
