"""What competes with the policies: packages, published rules, other solvers, searched schedules."""
