"""Code that is not ours runs in a process of its own: what kills it is a finding, and the campaign goes on."""
