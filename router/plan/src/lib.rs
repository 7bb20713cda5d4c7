//! Pure decisions of the router: view, placement, route.
