"""What is wrong now and was before: alerts of everything the panel looks at, their rules, and by which ways people hear of them.

`decide` (pure) says when one is raised and cleared, `rules` what each kind means, `services` writes the rows, `routes` tells them.
"""
