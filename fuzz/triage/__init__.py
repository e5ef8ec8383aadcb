"""What one does with a finding: make it smaller, replay it, hand it over, say what it costs."""
