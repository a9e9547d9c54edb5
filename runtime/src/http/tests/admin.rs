//! The admin face: the desired set, its report and vLLM's endpoints.

use serde_json::json;

use super::*;

#[tokio::test]
async fn vllms_endpoints_answer_word_for_word() {
    let router = administration();
    let load = |body: Value| {
        let router = router.clone();
        async move { post(&router, "/v1/load_lora_adapter", &body).await }
    };
    let added = load(json!({"lora_name": "new", "lora_path": "/good"})).await;
    assert_eq!(
        (added.status.as_u16(), added.text.as_str()),
        (200, "Success: LoRA adapter 'new' added successfully.")
    );
    let taken = load(json!({"lora_name": "sql", "lora_path": "/good"})).await;
    assert_eq!(
        (taken.status.as_u16(), taken.json()),
        (
            400,
            json!({"error": {
            "message": "The lora adapter 'sql' has already been loaded. If you want to load the adapter in place, \
                        set 'load_inplace' to True.",
            "type": "InvalidUserInput", "param": null, "code": 400}})
        )
    );
    assert_eq!(
        load(json!({"lora_name": "sql", "lora_path": "/good", "load_inplace": true})).await.status,
        200
    );
    let nothing = load(json!({"lora_name": "x"})).await;
    assert_eq!(nothing.json()["error"]["message"], "Both 'lora_name' and 'lora_path' must be provided.");
    let missing = load(json!({"lora_name": "x", "lora_path": "/missing"})).await;
    assert_eq!((missing.status.as_u16(), &missing.json()["error"]["type"]), (404, &json!("NotFoundError")));
    let bad = load(json!({"lora_name": "x", "lora_path": "/bad"})).await;
    assert_eq!((bad.status.as_u16(), &bad.json()["error"]["type"]), (400, &json!("BadRequestError")));

    let removed = post(&router, "/v1/unload_lora_adapter", &json!({"lora_name": "sql"})).await;
    assert_eq!(removed.text, "Success: LoRA adapter 'sql' removed successfully.");
    let unknown = post(&router, "/v1/unload_lora_adapter", &json!({"lora_name": "nobody"})).await;
    assert_eq!(unknown.status, 404);
    assert_eq!(unknown.json()["error"]["message"], "The lora adapter 'nobody' cannot be found.");
    let unnamed = post(&router, "/v1/unload_lora_adapter", &json!({})).await;
    assert_eq!(
        unnamed.json()["error"]["message"],
        "'lora_name' needs to be provided to unload a LoRA adapter."
    );
}

#[tokio::test]
async fn the_desired_set_goes_in_and_a_stale_one_is_a_conflict() {
    let router = administration();
    let set = |sequence: u64| json!({"version": {"epoch": 1, "sequence": sequence}, "adapters": []});
    let accepted = call(&router, "PUT", "/admin/v1/adapters", &set(3)).await;
    assert_eq!(accepted.json(), json!({"instance": "i", "version": {"epoch": 1, "sequence": 3}}));
    let stale = call(&router, "PUT", "/admin/v1/adapters", &set(0)).await;
    assert_eq!((stale.status.as_u16(), stale.json()["error"]["code"].clone()), (409, json!("stale_version")));
    let odd = call(&router, "PUT", "/admin/v1/adapters", &json!({"version": {"epoch": 1}})).await;
    assert_eq!((odd.status.as_u16(), odd.json()["error"]["code"].clone()), (400, json!("invalid_request")));
    let change = json!({"base": {"epoch": 1, "sequence": 3}, "version": {"epoch": 1, "sequence": 4}});
    assert_eq!(call(&router, "PATCH", "/admin/v1/adapters", &change).await.status, 200);
}

#[tokio::test]
async fn the_report_comes_at_once_or_after_a_wait() {
    let router = administration();
    assert_eq!(get(&router, "/admin/v1/adapters").await.json()["instance"], "i");
    assert_eq!(get(&router, "/admin/v1/adapters?instance=i&after=1&wait_seconds=0").await.status, 200);
    for bad in ["after=x", "after=1&wait_seconds=-1", "after=1&wait_seconds=NaN", "who=me"] {
        assert_eq!(get(&router, &format!("/admin/v1/adapters?{bad}")).await.status, 400, "{bad}");
    }
    let unknown = get(&router, "/admin/v1/adapters/nobody").await;
    assert_eq!(
        (unknown.status.as_u16(), unknown.json()["error"]["code"].clone()),
        (404, json!("unknown_adapter"))
    );
    assert_eq!(call(&router, "DELETE", "/admin/v1/adapters/nobody", &json!({})).await.status, 404);
    assert_eq!(call(&router, "DELETE", "/admin/v1/adapters/sql", &json!({})).await.status, 200);
}

#[tokio::test]
async fn an_open_admin_face_hears_local_programs_alone() {
    let router = administration();
    for (host, origin) in [("evil.example", None), ("localhost:8081", Some("http://evil.example"))] {
        let mut request = Request::get("/admin/v1/adapters").header("host", host);
        if let Some(origin) = origin {
            request = request.header("origin", origin);
        }
        assert_eq!(send(&router, request.body(Body::empty()).unwrap()).await.status, 403, "{host}");
    }
}
