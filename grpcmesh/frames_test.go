package grpcmesh

import (
	"bytes"
	"net"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
)

// However a stream of frames is cut into pieces, a frame of ours fits between
// two frames and nowhere else, and not into a header block.
func FuzzFrames(f *testing.F) {
	f.Add([]byte{0, 3, 1, 0, 2, 9, 3, 1}, uint8(1))
	f.Add([]byte{4, 200, 1, 1, 2, 2, 0, 0, 3, 255}, uint8(13))
	f.Add([]byte{5, 8, 0, 2, 6, 1}, uint8(0))
	f.Fuzz(func(t *testing.T, script []byte, size uint8) {
		script = script[:min(len(script), 64)]
		var wire bytes.Buffer
		fr := http2.NewFramer(&wire, nil)
		fits := map[int]bool{0: true} // places between frames
		for ; len(script) >= 2; script = script[2:] {
			block := bytes.Repeat([]byte{script[1]}, int(script[1]))
			var err error
			switch script[0] % 6 {
			case 0:
				err = fr.WriteData(1, false, block)
			case 1:
				err = fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block, EndHeaders: true})
			case 2:
				require.NoError(t, fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block}))
				require.NoError(t, fr.WriteContinuation(1, false, block))
				err = fr.WriteContinuation(1, true, block)
			case 3:
				err = fr.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: uint32(script[1])})
			case 4:
				err = fr.WritePing(true, [8]byte{script[1]})
			case 5:
				err = fr.WriteGoAway(1, http2.ErrCodeNo, block)
			}
			require.NoError(t, err)
			fits[wire.Len()] = true
		}
		var got frames
		all, at := wire.Bytes(), 0
		for piece := int(size) + 1; at < len(all); {
			n := min(piece, len(all)-at)
			between := got.pass(all[at : at+n])
			at += n
			require.Equal(t, fits[at], between, "after %d of %d bytes", at, len(all))
		}
	})
}

func TestGoAwayFrame(t *testing.T) {
	t.Parallel()
	f, err := http2.NewFramer(nil, bytes.NewReader(goAwayFrame)).ReadFrame()
	require.NoError(t, err)
	g, ok := f.(*http2.GoAwayFrame)
	require.True(t, ok)
	assert.EqualValues(t, 1<<31-1, g.LastStreamID)
	assert.Equal(t, http2.ErrCodeNo, g.ErrCode)
	assert.Empty(t, g.DebugData())
}

// record is a connection that keeps what is written.
type record struct {
	net.Conn
	wire   bytes.Buffer
	closed atomic.Int32
}

func (r *record) Write(b []byte) (int, error) { return r.wire.Write(b) }
func (r *record) Close() error                { r.closed.Add(1); return nil }

// The GOAWAY waits for the end of the frame, is written once, and the cut is
// off once the connection is closed.
func TestConn_GoAway(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ping := append([]byte{0, 0, 8, 6, 0, 0, 0, 0, 0}, "12345678"...)
		r := &record{}
		c := &conn{Conn: r}
		write := func(b []byte) {
			t.Helper()
			n, err := c.Write(b)
			require.NoError(t, err)
			require.Equal(t, len(b), n)
		}
		write(ping[:3])
		c.goAway()
		c.goAway()
		write(ping[3:12])
		require.Equal(t, ping[:12], r.wire.Bytes(), "not into a frame")
		write(ping[12:])
		write(ping)
		require.Equal(t, slices.Concat(ping, goAwayFrame, ping), r.wire.Bytes())
		time.Sleep(grace - 1)
		require.Zero(t, r.closed.Load())
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		require.EqualValues(t, 1, r.closed.Load())

		r = &record{}
		c = &conn{Conn: r}
		c.goAway()
		require.NoError(t, c.Close())
		c.going.Store(false)
		c.goAway() // too late
		time.Sleep(2 * grace)
		require.EqualValues(t, 1, r.closed.Load())
	})
}

// A server that has said goodbye for reasons of its own, as when it drains or
// by the age of the connection, has named the last stream: a GOAWAY of ours
// would name a later one (RFC 9113 §6.8 forbids that), over which clients close
// the connection with all that is under way. They are cut all the same.
func TestConn_GoneAlready(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var wire bytes.Buffer
		fr := http2.NewFramer(&wire, nil)
		require.NoError(t, fr.WritePing(false, [8]byte{}))
		require.NoError(t, fr.WriteGoAway(3, http2.ErrCodeNo, []byte("max_age")))
		require.NoError(t, fr.WriteData(3, false, []byte("message")))
		for size := 1; size <= wire.Len(); size++ {
			r := &record{}
			c := &conn{Conn: r}
			for piece := range slices.Chunk(wire.Bytes(), size) {
				_, err := c.Write(piece)
				require.NoError(t, err)
			}
			c.goAway()
			ping := wire.Bytes()[:17]
			_, err := c.Write(ping)
			require.NoError(t, err)
			require.Equal(t, slices.Concat(wire.Bytes(), ping), r.wire.Bytes(), "pieces of %d bytes", size)
			time.Sleep(grace)
			synctest.Wait()
			require.EqualValues(t, 1, r.closed.Load())
		}
	})
}
