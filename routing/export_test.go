package routing

// SetRandom has the router take its chances from f. Call it before it serves.
func (r *Router) SetRandom(f func() float64) { r.random = f }
