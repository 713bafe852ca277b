package match

// Part is a part of a request.
type Part uint8

// The parts that are compared.
const (
	Path Part = iota + 1
	Query
	Field // of the header
)

// Work bounds what is done to compare one call, because the client chooses the
// values. It counts steps: one is an instruction of a regular expression looked
// at for one byte, some five nanoseconds. The zero Work allows nothing. It is for
// one goroutine.
type Work struct {
	left int
	over Part

	// The value of a query that was unescaped last, as many rules ask for the same.
	escaped, plain string
}

// NewWork returns a Work that allows so many steps.
func NewWork(steps int) Work { return Work{left: steps} }

// Over returns the part that was too much, or 0. From then on nothing holds that
// would need more work, so that the call must be refused: another rule is not to
// take what is for this one.
func (w *Work) Over() Part { return w.over }

// Afford takes so many steps for a part, and reports whether they were left.
func (w *Work) Afford(of Part, steps int) bool {
	switch {
	case w.over != 0:
		return false
	case steps > w.left:
		w.over = of
		return false
	}
	w.left -= steps
	return true
}

// What else takes time that the client chooses, in steps for each byte.
const (
	stepsSearch = 2 // to look a parameter up
	// stepsUnescape are more than the time would be: what is unescaped is
	// allocated, which must not multiply the request either.
	stepsUnescape = 16
)
