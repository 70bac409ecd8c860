use http::Method;
use serde_json::json;

use crate::client::Site;

#[tokio::test]
async fn a_new_server_is_well_and_ready() {
    let site = Site::start().await;
    for path in ["/utils/health-check/", "/utils/ready"] {
        assert_eq!(site.ask(Method::GET, path, None, None).await.expect(200), json!(true));
    }
}

#[tokio::test]
async fn what_is_not_there_is_refused_in_json() {
    let site = Site::start().await;
    let missing = site.ask(Method::GET, "/nothing", None, None).await;
    assert_eq!(missing.expect(404), json!({"detail": "Not Found", "code": "not_found"}));
    let wrong = site.ask(Method::DELETE, "/utils/health-check/", None, None).await;
    assert_eq!(wrong.refusal(405), "method_not_allowed");
}

#[tokio::test]
async fn the_document_and_its_page_are_served() {
    let site = Site::start().await;
    let document = site.ask(Method::GET, "/openapi.json", None, None).await.expect(200);
    assert!(document["paths"]["/api/v1/utils/health-check/"]["get"].is_object(), "{document}");
    let page = http::Request::builder().uri(format!("http://{}/docs/", site.address()));
    let page = site.send(page.body(Default::default()).unwrap()).await;
    assert_eq!(page.status, 200);
    assert!(String::from_utf8_lossy(&page.body).contains("swagger-ui"));
}

#[tokio::test]
async fn a_failure_says_an_id_for_the_log_and_nothing_of_its_reason() {
    let site = Site::start_alone(|settings| {
        settings.sandbox = Some(schwann_process::Sandbox::None);
    })
    .await;
    let me = site.superuser().await;
    let card = site.card(&me, &site.book(&me, "A").await, "print(1)").await;
    std::fs::remove_dir_all(site.data().join("data/runs")).unwrap();
    let answer = site.post(&format!("{card}/run"), &me, serde_json::json!({})).await;
    assert_eq!(answer.headers["x-content-type-options"], "nosniff");
    let failed = answer.expect(503);
    let known = ["code", "detail", "error_id"];
    assert_eq!(failed.as_object().unwrap().keys().collect::<Vec<_>>(), known, "{failed}");
    assert_eq!(failed["code"], "storage_failed");
    assert_eq!(failed["detail"], "The output of runs cannot be kept now");
}

#[tokio::test]
async fn the_data_folder_is_for_its_owner_only_whatever_it_was() {
    use std::os::unix::fs::PermissionsExt as _;
    let mode = |site: &Site| {
        let data = std::fs::metadata(site.data().join("data")).unwrap();
        data.permissions().mode() & 0o777
    };
    let site = Site::start_alone(|_| {}).await;
    assert_eq!(mode(&site), 0o700);
    let open = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(site.data().join("data"), open).unwrap();
    assert_eq!(mode(&site.restart().await), 0o700);
}
