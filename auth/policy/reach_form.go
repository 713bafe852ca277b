package policy

// form is which texts there are at all: what no call has needs no answer.
type form struct {
	plain, special string // the bytes, those first that look best in an example
	empty          bool   // the empty text is one
	step           func(place, byte) (place, bool)
}

// place is where in a text a byte stands.
type place uint8

const (
	placeStart place = iota
	placeSlash
	placePlain
	placeOpen // where no text ends
	placeTwo  // behind "..", the same
)

var forms = [textFields]form{
	fieldMethod: {
		plain: "XYZWABCDEFGHIJKLMNOPQRSTUV", special: "-_",
		step: func(p place, b byte) (place, bool) { return placePlain, p != placeStart || b != '-' && b != '_' },
	},
	fieldHost: {
		plain: "xyzwabcdefghijklmnopqrstuv0123456789-_:", special: ".", empty: true,
		step: func(p place, b byte) (place, bool) {
			if b == '.' {
				return placeOpen, p == placePlain
			}
			return placePlain, true
		},
	},
	// Without "//" and dot segments. What an escape stands for is not looked at.
	fieldPath: {
		plain: "xyzwabcdefghijklmnopqrstuv0123456789XYZWABCDEFGHIJKLMNOPQRSTUV-_~!$&'()*+,;=:@%", special: "/.",
		step: func(p place, b byte) (place, bool) {
			switch {
			case b == '/':
				return placeSlash, p == placeStart || p == placePlain
			case p == placeStart:
				return p, false
			case b == '.' && p == placeSlash:
				return placeOpen, true
			case b == '.' && p == placeOpen:
				return placeTwo, true
			}
			return placePlain, true
		},
	},
}
