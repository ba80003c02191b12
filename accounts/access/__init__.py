"""Who may use the JSON API, and how: tokens, the browser's session, requests that may come twice."""
