package devca

var (
	SamePeer = samePeer
	SameUser = sameUser
)
