// Package match compares the parts of calls with what a configuration says
// about them. What it compiles is immutable and safe for concurrent use.
package match

import (
	"errors"
	"fmt"
	"regexp"
	"regexp/syntax"
	"strings"
	"unicode/utf8"
)

// Kind says how a value is compared.
type Kind uint8

// The kinds.
const (
	Exact   Kind = iota // the whole value
	Prefix              // how it begins
	Regex               // a regular expression of RE2 for the whole value
	Present             // any value
)

// Value is a compiled comparison. The zero Value holds for the empty string.
type Value struct {
	kind Kind
	text string
	re   *regexp.Regexp
	cost int // of re
}

// NewValue compiles a comparison. The error says what is wrong without naming
// the field.
func NewValue(kind Kind, text string) (v Value, err error) {
	v = Value{kind: kind, text: text}
	switch kind {
	case Exact, Prefix:
	case Regex:
		v.re, err = Compile(text, false)
		if err == nil {
			v.cost = Cost(text, false)
		}
	case Present:
		if text != "" {
			err = errors.New("must be empty where any value will do")
		}
	default:
		err = fmt.Errorf("is compared in the unknown way %d", kind)
	}
	return v, err
}

// Cost is that of its regular expression; see [Cost]. It is 0 if it has none.
func (v *Value) Cost() int { return v.cost }

// Holds reports whether s, a value of that part, is such a value.
func (v *Value) Holds(s string, of Part, w *Work) bool {
	switch v.kind {
	case Exact:
		return s == v.text
	case Prefix:
		return strings.HasPrefix(s, v.text)
	case Regex:
		return w.Afford(of, v.cost*len(s)) && v.re.MatchString(s)
	case Present:
		return true
	}
	return false
}

// The limits of regular expressions. The time that one takes is proportional to
// the product of its program and the value, which the client chooses.
const (
	MaxRegex   = 4096 // bytes
	MaxProgram = 4096 // instructions
)

// Compile compiles a regular expression of RE2 that has to match the whole of
// a value, with foldCase without regard to case.
func Compile(pattern string, foldCase bool) (*regexp.Regexp, error) {
	// By itself first: "a)(b" must not become whole by what is put around it.
	if _, err := program(pattern); err != nil {
		return nil, err
	}
	flags := "(?:"
	if foldCase {
		flags = "(?i:"
	}
	return regexp.Compile(`\A` + flags + pattern + `)\z`)
}

// CompileSearch compiles a regular expression of RE2 that is searched for within
// a value, and returns how many instructions may have to be looked at for each
// byte by each search.
func CompileSearch(pattern string) (*regexp.Regexp, int, error) {
	p, err := program(pattern)
	if err != nil {
		return nil, 0, err
	}
	re, err := regexp.Compile(pattern)
	return re, len(p.Inst), err
}

func program(pattern string) (*syntax.Prog, error) {
	if len(pattern) > MaxRegex {
		return nil, fmt.Errorf("is a regular expression of more than %d bytes", MaxRegex)
	}
	tree, err := syntax.Parse(pattern, syntax.Perl)
	if err != nil {
		return nil, err
	}
	p, err := syntax.Compile(tree.Simplify())
	if err != nil || len(p.Inst) > MaxProgram {
		return nil, fmt.Errorf("is a regular expression that compiles to more than %d instructions", MaxProgram)
	}
	return p, nil
}

// Cost returns how many instructions a pattern of [Compile] has that may have to
// be looked at for each byte of a value: not those of the text that it begins
// with, which is compared once, nor the two of which every program ends in one.
func Cost(pattern string, foldCase bool) int {
	p, err := program(pattern)
	if err != nil {
		return MaxProgram
	}
	text := 0
	if !foldCase {
		text = utf8.RuneCountInString(Literal(pattern, false))
	}
	return max(1, len(p.Inst)-2-text)
}

// Literal returns how every value begins that a pattern of [Compile] matches as
// a whole, as far as that is one text. With foldCase the text is in lower case.
func Literal(pattern string, foldCase bool) string {
	flags := syntax.Flags(syntax.Perl)
	if foldCase {
		flags |= syntax.FoldCase
	}
	tree, err := syntax.Parse(pattern, flags)
	if err != nil {
		return ""
	}
	text, _ := literal(tree, foldCase)
	if foldCase {
		text = Lower(text)
	}
	return text
}

// literal returns the text that what tree matches begins with, and whether that
// is all it matches.
func literal(tree *syntax.Regexp, foldCase bool) (text string, whole bool) {
	switch tree.Op {
	case syntax.OpLiteral:
		if tree.Flags&syntax.FoldCase != 0 && !foldCase {
			return "", false
		}
		return string(tree.Rune), true
	case syntax.OpEmptyMatch, syntax.OpBeginText, syntax.OpEndText, syntax.OpBeginLine, syntax.OpEndLine,
		syntax.OpWordBoundary, syntax.OpNoWordBoundary:
		return "", true // they may forbid a match, and never lengthen it
	case syntax.OpCapture:
		return literal(tree.Sub[0], foldCase)
	case syntax.OpPlus:
		text, _ = literal(tree.Sub[0], foldCase)
		return text, false
	case syntax.OpConcat:
		for _, sub := range tree.Sub {
			t, all := literal(sub, foldCase)
			text += t
			if !all {
				return text, false
			}
		}
		return text, true
	}
	return "", false
}

// Lower returns s with its ASCII letters in lower case. It allocates only if
// there are any in upper case.
func Lower(s string) string {
	for i := 0; i < len(s); i++ {
		if 'A' <= s[i] && s[i] <= 'Z' {
			out := []byte(s)
			for ; i < len(out); i++ {
				out[i] = lower(out[i])
			}
			return string(out)
		}
	}
	return s
}

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		c += 'a' - 'A'
	}
	return c
}
