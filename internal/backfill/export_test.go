package backfill

// OnStep has a function called before each exchange of a service's runners with the
// server.
func OnStep(s *Service, before func(step string)) { s.before = before }
